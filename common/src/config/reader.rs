//! Reads typed values by key and collects every mistake.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use secrecy::SecretString;

use super::{Effective, queues::Queue};

/// Prefix of the environment variables that configure a process.
const ENV_PREFIX: &str = "TENANTRY__";

/// The longest duration, ten years: far from where clocks and timers overflow.
const PERIOD_MILLIS_MAX: u64 = 3650 * 86_400_000;

/// A literal, or for the sections of queues a text made from the queue's name.
type Text = Cow<'static, str>;

/// One key, as the table in `docs/configuration.md` shows it.
#[derive(Debug, Clone)]
pub struct Key {
    /// Dotted name as in the file, such as `smtp.port`.
    pub name: Text,
    /// Value if none is given.
    pub default: Text,
    /// What the key sets.
    pub meaning: Text,
    /// Whether its value must never be printed.
    pub secret: bool,
}

impl Key {
    fn new(
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
        secret: bool,
    ) -> Self {
        Self { name: name.into(), default: default.into(), meaning: meaning.into(), secret }
    }

    /// The environment variable that sets this key.
    pub fn variable(&self) -> String {
        variable_of(&self.name)
    }
}

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key it is about.
    pub key: String,
    /// What is wrong and how to fix it; never contains the value of a secret.
    pub problem: String,
}

/// Every mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} mistake(s):", self.0.len())?;
        for Mistake { key, problem } in &self.0 {
            writeln!(f, "  {key}: {problem}")?;
        }
        Ok(())
    }
}

/// Raw values by dotted key, and the mistakes made while reading them.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// The queues, each with a section.
    queues: &'static [Queue],
    values: BTreeMap<String, String>,
    /// The sections of the file that have no keys.
    empty_sections: BTreeSet<String>,
    mistakes: Vec<Mistake>,
}

impl Sources {
    /// No values yet, for a product with these queues.
    pub fn new(queues: &'static [Queue]) -> Self {
        Self { queues, ..Self::default() }
    }

    /// Reads the file named by `TENANTRY_CONFIG_FILE`, if any, then the environment.
    pub fn from_environment(queues: &'static [Queue]) -> Self {
        let mut sources = Self::new(queues);
        if let Some(path) = super::config_file() {
            sources.add_file(&path);
        }
        sources.add_environment(std::env::vars_os());
        sources
    }

    /// Adds the keys of a TOML file; an unreadable or invalid file is recorded as a mistake.
    pub fn add_file(&mut self, path: &Path) {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.mistake(&shown, format!("cannot be read: {error}")),
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_table("", &table),
            Err(error) => {
                // The parser's own message quotes the line, which may contain a secret.
                let line = error.span().map_or(0, |span| text[..span.start].lines().count());
                self.mistake(&shown, format!("is not valid TOML near line {line}"));
            }
        }
    }

    /// Adds `TENANTRY__SECTION__KEY` variables; `…__KEY_FILE` names a file that holds the value. An
    /// unreadable file, or both variables for one key, is recorded as a mistake.
    pub fn add_environment<T: Into<OsString>>(
        &mut self,
        variables: impl IntoIterator<Item = (T, T)>,
    ) {
        let mut ours = BTreeMap::new();
        for (name, value) in variables {
            let (name, value) = (name.into(), value.into());
            let Some(key) = name.to_string_lossy().strip_prefix(ENV_PREFIX).map(key_of) else {
                continue;
            };
            let upper = variable_of(&key);
            match value.into_string() {
                Ok(value) if name == *upper => drop(ours.insert(key, value)),
                Ok(_) => self.mistake(&key, format!("the name of its variable is {upper}")),
                Err(_) => self.mistake(&key, "its variable is not valid UTF-8".to_owned()),
            }
        }
        for (key, value) in &ours {
            let Some(target) = key.strip_suffix("_file") else {
                self.values.insert(key.clone(), value.clone());
                continue;
            };
            if ours.contains_key(target) {
                self.mistake(
                    target,
                    "is set both directly and by its _FILE variable; remove one of them".to_owned(),
                );
            }
            match std::fs::read_to_string(value) {
                Ok(content) => {
                    self.values.insert(target.to_owned(), content.trim_end().to_owned());
                }
                Err(error) => self.mistake(
                    target,
                    format!("the file named by its _FILE variable cannot be read: {error}"),
                ),
            }
        }
    }

    fn add_table(&mut self, prefix: &str, table: &toml::Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(inner) if inner.is_empty() => {
                    self.empty_sections.insert(key);
                }
                toml::Value::Table(inner) => self.add_table(&key, inner),
                toml::Value::String(text) => drop(self.values.insert(key, text.clone())),
                other => drop(self.values.insert(key, other.to_string())),
            }
        }
    }

    fn mistake(&mut self, key: &str, problem: String) {
        self.mistakes.push(Mistake { key: key.to_owned(), problem });
    }
}

/// The key that a variable sets, from its name without the prefix.
fn key_of(name: &str) -> String {
    name.to_lowercase().replace("__", ".")
}

/// The variable that sets a key.
fn variable_of(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// A duration such as `500ms`, `30s`, `15m`, `24h` or `30d`.
#[derive(Debug, Clone, Copy)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HELP: &str = "must be a whole number with a unit, such as 500ms, 30s, 15m, 24h or 30d, more than zero and at most 3650d";
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(HELP)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| HELP)?;
        let millis_per_unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(HELP.to_owned()),
        };
        match number.checked_mul(millis_per_unit) {
            Some(millis) if (1..=PERIOD_MILLIS_MAX).contains(&millis) => {
                Ok(Self(Duration::from_millis(millis)))
            }
            _ => Err(HELP.to_owned()),
        }
    }
}

/// An evenly spread rate: one permit per `interval`, at most a tenth of a second's worth at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Number of permits.
    pub permits: u32,
    /// The time in which they are issued.
    pub per: Duration,
}

impl Rate {
    /// Time between two permits.
    pub fn interval(self) -> Duration {
        self.per / self.permits
    }

    /// Most permits issued at once after a pause.
    pub fn burst(self) -> u32 {
        let tenth = Duration::from_millis(100).as_nanos() / self.interval().as_nanos().max(1);
        u32::try_from(tenth).unwrap_or(u32::MAX).max(1)
    }
}

impl fmt::Display for Rate {
    /// As it is configured, such as `14/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            3_600 => "h",
            60 => "m",
            _ => "s",
        };
        write!(f, "{}/{unit}", self.permits)
    }
}

/// A rate such as `14/s`, `600/m` or `5000/h`; empty for none.
pub(super) struct RateOrNone(pub(super) Option<Rate>);

impl FromStr for RateOrNone {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const HELP: &str = "must be a whole number from 1 to 1000000 per second, minute or hour, such as 14/s, 600/m or 5000/h, or empty for no limit";
        if text.is_empty() {
            return Ok(Self(None));
        }
        let (permits, unit) = text.split_once('/').ok_or(HELP)?;
        let permits =
            permits.parse().ok().filter(|permits| (1..=1_000_000).contains(permits)).ok_or(HELP)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return Err(HELP.to_owned()),
        };
        Ok(Self(Some(Rate { permits, per: Duration::from_secs(seconds) })))
    }
}

/// A duration, or `0` for none.
struct OptionalPeriod(Option<Duration>);

impl FromStr for OptionalPeriod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(None));
        }
        let period = text.parse::<Period>().map_err(|help| format!("{help}, or 0 for none"))?;
        Ok(Self(Some(period.0)))
    }
}

/// The highest password score: zxcvbn scores from 0 to 4.
pub const PASSWORD_SCORE_MAX: u8 = 4;

/// A zxcvbn score.
pub(super) struct Score(pub(super) u8);

impl FromStr for Score {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let score = text.parse().ok().filter(|score| *score <= PASSWORD_SCORE_MAX);
        score
            .map(Self)
            .ok_or_else(|| format!("must be a whole number from 0 to {PASSWORD_SCORE_MAX}"))
    }
}

/// A share of a whole.
pub(super) struct Share(pub(super) f64);

impl FromStr for Share {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or("must be a number from 0 to 1")
    }
}

/// The path of a file; empty for none.
pub(super) struct FileOrNone(pub(super) Option<PathBuf>);

impl FromStr for FileOrNone {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self((!text.is_empty()).then(|| text.into())))
    }
}

/// A whole number greater than zero.
struct Count<T>(T);

impl<T: TryFrom<u64>> FromStr for Count<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse::<u64>().ok().filter(|number| *number > 0);
        let fitting = number.and_then(|number| T::try_from(number).ok()).map(Count);
        let max = u64::MAX >> (64 - 8 * size_of::<T>().min(8));
        fitting.ok_or_else(|| format!("must be a whole number from 1 to {max}"))
    }
}

/// An address and port to listen on.
pub(super) struct Listen(pub(super) SocketAddr);

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| {
            "must be an IP address and a port, such as 127.0.0.1:4000 or [::]:4000; host names are not resolved".to_owned()
        };
        text.parse().map(Self).map_err(wrong)
    }
}

/// An http(s) origin, without a trailing slash.
pub(super) struct Url(pub(super) String);

impl FromStr for Url {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let host_given = host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'));
        let plain =
            !text.contains(|c: char| c.is_whitespace() || c.is_control() || "?#\"'<>@".contains(c));
        if host_given && plain {
            Ok(Self(text.trim_end_matches('/').to_owned()))
        } else {
            Err("must be an http:// or https:// URL without a query".to_owned())
        }
    }
}

/// Filter directives of `tracing`.
pub(super) struct Filter(pub(super) String);

impl FromStr for Filter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => {
                Err("must be `tracing` filter directives such as info or info,api=debug".to_owned())
            }
        }
    }
}

/// Hands out typed values and collects mistakes.
pub(super) struct Reader {
    sources: Sources,
    keys: Vec<Key>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    pub(super) fn new(mut sources: Sources) -> Self {
        let mistakes = std::mem::take(&mut sources.mistakes);
        Self { sources, keys: Vec::new(), mistakes }
    }

    /// The queues that have a section.
    pub(super) const fn queues(&self) -> &'static [Queue] {
        self.sources.queues
    }

    /// An address and port to listen on.
    pub(super) fn listen(
        &mut self,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> SocketAddr {
        self.value::<Listen>(name, default, meaning).0
    }

    /// Whether a value was given for `name`.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.sources.values.contains_key(name)
    }

    /// Whether a mistake was already recorded for `name`.
    pub(super) fn is_mistaken(&self, name: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.key == name)
    }

    /// The value of `name`, or its default. If the value does not parse, the mistake is recorded
    /// and the default returned, so that reading continues and finds the next mistake too.
    pub(super) fn value<T: FromStr>(
        &mut self,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> T
    where
        T::Err: fmt::Display,
    {
        self.parsed(Key::new(name, default, meaning, false))
    }

    /// As [`Reader::value`], for a secret: neither its value nor a parse error that quotes it is
    /// printed.
    pub(super) fn secret_value<T: FromStr>(
        &mut self,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> T
    where
        T::Err: fmt::Display,
    {
        self.parsed(Key::new(name, default, meaning, true))
    }

    fn parsed<T: FromStr>(&mut self, key: Key) -> T
    where
        T::Err: fmt::Display,
    {
        self.parsed_by(key, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    fn parsed_by<T>(&mut self, key: Key, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let given = self.sources.values.get(&*key.name).map(|text| parse(text));
        let parsed = match given {
            Some(Ok(value)) => value,
            other => {
                if let Some(Err(problem)) = other {
                    self.mistake(&key.name, &problem);
                }
                parse(&key.default)
                    .unwrap_or_else(|error| panic!("the default of {} parses: {error}", key.name))
            }
        };
        self.keys.push(key);
        parsed
    }

    /// A duration.
    pub(super) fn period(
        &mut self,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> Duration {
        self.value::<Period>(name, default, meaning).0
    }

    /// A duration, or `0` for none.
    pub(super) fn optional_period(
        &mut self,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> Option<Duration> {
        self.value::<OptionalPeriod>(name, default, meaning).0
    }

    /// A whole number greater than zero.
    pub(super) fn count<T: TryFrom<u64>>(
        &mut self,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> T {
        self.value::<Count<T>>(name, default, meaning).0
    }

    /// A whole number from 1 to `max`.
    pub(super) fn count_up_to<T: TryFrom<u64>>(
        &mut self,
        max: u64,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> T {
        let parse = |text: &str| {
            let number = text.parse().ok().filter(|number| (1..=max).contains(number));
            let fitting = number.and_then(|number| T::try_from(number).ok());
            fitting.ok_or_else(|| format!("must be a whole number from 1 to {max}"))
        };
        self.parsed_by(Key::new(name, default, meaning, false), parse)
    }

    /// A secret, which is never printed.
    pub(super) fn secret(
        &mut self,
        name: impl Into<Text>,
        default: impl Into<Text>,
        meaning: impl Into<Text>,
    ) -> SecretString {
        let key = Key::new(name, default, meaning, true);
        let given = self.sources.values.get(&*key.name).map_or(&*key.default, String::as_str);
        let secret = SecretString::from(given.to_owned());
        self.keys.push(key);
        secret
    }

    pub(super) fn mistake(&mut self, key: &str, problem: &str) {
        self.mistakes.push(Mistake { key: key.to_owned(), problem: problem.to_owned() });
    }

    pub(super) fn into_keys(self) -> Vec<Key> {
        self.keys
    }

    /// Each key with its effective value.
    pub(super) fn describe(&self) -> Vec<Effective> {
        let effective = |key: &Key| {
            let given = self.sources.values.get(&*key.name);
            let (value, from) = match given {
                // Defaults are public: they are part of the source.
                None => (&*key.default, "default"),
                Some(_) if key.secret => ("[redacted]", "given"),
                Some(value) => (value.as_str(), "given"),
            };
            Effective { key: key.name.to_string(), value: value.to_owned(), from }
        };
        self.keys.iter().map(effective).collect()
    }

    /// Succeeds if no mistake was recorded and no unknown key given.
    pub(super) fn finish(mut self) -> Result<(), Mistakes> {
        let known: BTreeSet<&str> = self.keys.iter().map(|key| &*key.name).collect();
        let unknown = self.sources.values.keys().filter(|key| !known.contains(key.as_str()));
        let unknown: Vec<Mistake> = unknown
            .map(|key| Mistake { key: key.clone(), problem: unknown_key(key, &known) })
            .collect();
        self.mistakes.extend(unknown);
        let is_unknown = |section: &&String| !known.iter().any(|key| is_within(key, section));
        let unknown = self.sources.empty_sections.iter().filter(is_unknown);
        let problem = || "is not a known section".to_owned();
        self.mistakes.extend(unknown.map(|key| Mistake { key: key.clone(), problem: problem() }));
        if self.mistakes.is_empty() { Ok(()) } else { Err(Mistakes(self.mistakes)) }
    }
}

/// Whether a key belongs to a section or to a section of it.
fn is_within(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

fn unknown_key(key: &str, known: &BTreeSet<&str>) -> String {
    let section = key.split('.').next();
    let siblings: Vec<&str> =
        known.iter().copied().filter(|known| known.split('.').next() == section).collect();
    if siblings.is_empty() {
        "is not a known key".to_owned()
    } else {
        format!("is not a known key; the keys of this section are {}", siblings.join(", "))
    }
}
