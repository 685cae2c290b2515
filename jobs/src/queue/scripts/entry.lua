-- A field of a stream's entry: 'i' the job's id, 'e' its envelope, 'g' its group, 'r' whether its
-- row must be checked before it runs.
local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end
