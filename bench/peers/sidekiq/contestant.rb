# frozen_string_literal: true

# Sidekiq as a contestant of `cargo xtask bench jobs`. Reads one task per line as JSON from standard input and
# writes one answer per line to standard output. README.md explains which features are used, and why.

require "json"
require "sidekiq"
require "sidekiq/api"
require "sidekiq/launcher"

BATCH = 1_000
LOOK_PAUSE = 0.002
WAIT_MAX = 240
PRODUCERS_MAX = 64

REDIS = { url: "redis://127.0.0.1:#{ENV.fetch("BENCH_REDIS_PORT")}/0" }.freeze
Sidekiq.configure_client { |config| config.redis = REDIS.merge(size: PRODUCERS_MAX) }
# This version of Sidekiq uses a call that redis-rb deprecates; a warning per push would slow it down.
Redis.sadd_returns_boolean = false
Sidekiq.logger = Logger.new($stderr, level: Logger::WARN)

def now
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

# Start times of jobs. Appending to an array is atomic under Ruby's global lock, so no lock is needed.
module Starts
  class << self
    attr_reader :list

    def clear
      @list = []
    end
  end
end

# Does nothing.
class Noop
  include Sidekiq::Worker

  def perform(payload)
    Starts.list << [payload["n"], now]
  end
end

def rate(jobs, time)
  { per_second: jobs / time }
end

def push_single(jobs, in_flight)
  begun = now
  producers = Array.new(in_flight) do |producer|
    Thread.new { producer.step(jobs - 1, in_flight) { |n| Noop.perform_async({ "n" => n }) } }
  end
  producers.each(&:join)
  rate(jobs, now - begun)
end

def push_batch(jobs)
  begun = now
  (0...jobs).each_slice(BATCH) do |numbers|
    Sidekiq::Client.push_bulk("class" => Noop, "args" => numbers.map { |n| [{ "n" => n }] })
  end
  rate(jobs, now - begun)
end

# Runs a worker while the block runs.
def with_worker(concurrency)
  Starts.clear
  # Like `sidekiq -c`: that many threads, and enough connections for them.
  Sidekiq.redis = REDIS.merge(size: concurrency + PRODUCERS_MAX + 5)
  options = Sidekiq.options.merge(queues: ["default"], concurrency: concurrency)
  launcher = Sidekiq::Launcher.new(options)
  launcher.run
  yield
ensure
  launcher&.stop
end

# Waits until the queue is empty and `jobs` jobs have started.
def drained(jobs)
  queue = Sidekiq::Queue.new
  deadline = now + WAIT_MAX
  until queue.size.zero? && Starts.list.size >= jobs
    raise "not drained: #{Starts.list.size} of #{jobs} started" if now > deadline

    sleep LOOK_PAUSE
  end
end

def drain(jobs, concurrency)
  push_batch(jobs)
  with_worker(concurrency) do
    drained(jobs)
    ended = now
    rate(jobs, ended - Starts.list.map(&:last).min)
  end
end

def latency(task)
  total = task["warm_up"] + task["samples"]
  called = Array.new(total)
  with_worker(task["concurrency"]) do
    begun = now
    total.times do |n|
      pause = begun + n * task["interval_ms"] / 1_000.0 - now
      sleep pause if pause.positive?
      called[n] = now
      Noop.perform_async({ "n" => n })
    end
    drained(total)
    waits = Starts.list.sort.drop(task["warm_up"]).map { |n, at| (at - called[n]) * 1_000 }.sort
    at = ->(percent) { waits[(waits.size * percent / 100.0).ceil - 1] }
    { p50_ms: at.call(50), p99_ms: at.call(99) }
  end
end

def measure(task)
  case task["do"]
  when "push_single" then push_single(task["jobs"], task["in_flight"])
  when "push_batch" then push_batch(task["jobs"])
  when "drain" then drain(task["jobs"], task["concurrency"])
  when "latency" then latency(task)
  else raise "Sidekiq cannot do #{task["do"]}"
  end
end

def tell(answer)
  $stdout.puts(JSON.generate(answer))
  $stdout.flush
end

Starts.clear
tell(ready: "Sidekiq #{Sidekiq::VERSION}, redis-rb #{Redis::VERSION}, Ruby #{RUBY_VERSION}")
$stdin.each_line do |line|
  tell(values: measure(JSON.parse(line)))
rescue StandardError => e
  tell(error: "#{e.class}: #{e.message}")
end
