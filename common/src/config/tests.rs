use std::{ffi::OsString, time::Duration};

use secrecy::SecretString;

use super::*;

fn sources(pairs: &[(&str, &str)]) -> Sources {
    let mut sources = Sources::default();
    sources.add_environment(
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    sources
}

fn development() -> Vec<(&'static str, &'static str)> {
    vec![("TENANTRY__APP__ENVIRONMENT", "development")]
}

fn mistaken_keys(extra: &[(&'static str, &'static str)]) -> Vec<String> {
    let mut pairs = development();
    pairs.extend_from_slice(extra);
    let mistakes = Config::load(sources(&pairs)).unwrap_err();
    mistakes.0.into_iter().map(|mistake| mistake.key).collect()
}

#[test]
fn development_needs_no_other_setting() {
    let config = Config::load(sources(&development())).unwrap();
    assert_eq!(config.api.listen.port(), 4000);
    assert_eq!(config.auth.access_token_ttl, Duration::from_mins(15));
}

#[test]
fn production_requires_secrets_and_https() {
    let mistakes = Config::load(Sources::default()).unwrap_err();
    let keys: Vec<_> = mistakes.0.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["auth.master_key", "app.public_url", "mongodb.uri", "redis.url"]);
}

#[test]
fn production_rejects_a_key_that_is_not_random_and_unencrypted_mail_to_another_machine() {
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let random = "3q2+7wBHsQ2Wm0Yq8l5h1dXz6uKp9c4TfVbNnRjEgLk=";
    let production = |key, host, tls| {
        let given = sources(&[
            ("TENANTRY__AUTH__MASTER_KEY", key),
            ("TENANTRY__APP__PUBLIC_URL", "https://app.example.com"),
            ("TENANTRY__MONGODB__URI", "mongodb://db"),
            ("TENANTRY__REDIS__URL", "redis://cache"),
            ("TENANTRY__SMTP__HOST", host),
            ("TENANTRY__SMTP__TLS", tls),
        ]);
        let mistakes = Config::load(given).err().map(|mistakes| mistakes.0).unwrap_or_default();
        mistakes.into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
    };
    assert_eq!(production(random, "mail.example.com", "starttls"), [""; 0]);
    for local in ["localhost", "127.0.0.1", "::1"] {
        assert_eq!(production(random, local, "none"), [""; 0], "{local}");
    }
    assert_eq!(production(random, "mail.example.com", "none"), ["smtp.tls"]);
    assert_eq!(production(random, "10.0.0.7", "none"), ["smtp.tls"]);
    assert_eq!(production(zero, "localhost", "none"), ["auth.master_key"]);
}

#[test]
fn production_that_accepts_any_password_is_warned() {
    let warnings = |environment, score| {
        let given = sources(&[
            ("TENANTRY__APP__ENVIRONMENT", environment),
            ("TENANTRY__APP__PUBLIC_URL", "https://app.example.com"),
            ("TENANTRY__AUTH__MASTER_KEY", "3q2+7wBHsQ2Wm0Yq8l5h1dXz6uKp9c4TfVbNnRjEgLk="),
            ("TENANTRY__AUTH__PASSWORD_SCORE_MIN", score),
            ("TENANTRY__MONGODB__URI", "mongodb://db"),
            ("TENANTRY__REDIS__URL", "redis://cache"),
        ]);
        Config::load(given).unwrap().warnings().len()
    };
    assert_eq!(warnings("production", "0"), 1);
    assert_eq!(warnings("production", "1"), 0);
    assert_eq!(warnings("development", "0"), 0);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let keys = mistaken_keys(&[
        ("TENANTRY__API__LISTEN", "nowhere"),
        ("TENANTRY__SMTP__PORT", "70000"),
        ("TENANTRY__JOBS__LEASE", "soon"),
        ("TENANTRY__SMPT__HOST", "typo"),
    ]);
    assert_eq!(keys, ["api.listen", "jobs.lease", "smtp.port", "smpt.host"]);
}

#[test]
fn an_optional_period_may_be_zero() {
    let ttl = |text| {
        let mut pairs = development();
        pairs.push(("TENANTRY__JOBS__HISTORY_TTL", text));
        Config::load(sources(&pairs)).unwrap().jobs.history_ttl
    };
    assert_eq!(Config::load(sources(&development())).unwrap().jobs.history_ttl, None);
    assert_eq!((ttl("0"), ttl("7d")), (None, Some(Duration::from_hours(7 * 24))));
}

#[test]
fn each_kind_of_invalid_value_is_rejected() {
    let bad = [
        ("TENANTRY__APP__HEARTBEAT_INTERVAL", "21s"),
        ("TENANTRY__API__REQUEST_TIMEOUT", "0s"),
        ("TENANTRY__API__REQUEST_TIMEOUT", "99999999999999999999d"),
        ("TENANTRY__API__REQUEST_TIMEOUT", "5 weeks"),
        ("TENANTRY__API__CONCURRENCY_MAX", "0"),
        ("TENANTRY__API__CONCURRENCY_MAX", "-1"),
        ("TENANTRY__APP__PUBLIC_URL", "javascript:alert(1)"),
        ("TENANTRY__APP__PUBLIC_URL", "https://"),
        ("TENANTRY__APP__ENVIRONMENT", "prod"),
        ("TENANTRY__API__LISTEN", "localhost:4000"),
        ("TENANTRY__JOBS__HISTORY_TTL", "0s"),
        ("TENANTRY__JOBS__HISTORY_TTL", "off"),
        ("TENANTRY__AUTH__ACCESS_TOKEN_TTL", "40d"),
        ("TENANTRY__SMTP__TLS", "ssl"),
        ("TENANTRY__SMTP__FROM", "nobody"),
        ("TENANTRY__SMTP__USERNAME", "set-without-tls"),
        ("TENANTRY__TELEMETRY__FILTER", "a=b=c"),
        ("TENANTRY__TELEMETRY__FORMAT", "xml"),
        ("TENANTRY__TELEMETRY__OTLP_ENDPOINT", "otel:4318"),
        ("TENANTRY__AUTH__MASTER_KEY", "short"),
        ("TENANTRY__MONGODB__URI", "postgres://x"),
        ("TENANTRY__MONGODB__URI", "mongodb://"),
        ("TENANTRY__MONGODB__URI", "mongodb://host:port"),
        ("TENANTRY__MONGODB__URI", "mongodb://root:p@ss:word@host"),
        ("TENANTRY__MONGODB__URI", "mongodb://host/?maxPoolSize=many"),
        ("TENANTRY__MONGODB__DATABASE", ""),
        ("TENANTRY__MONGODB__DATABASE", "ten.antry"),
        ("TENANTRY__MONGODB__DATABASE", "$db"),
        (
            "TENANTRY__MONGODB__DATABASE",
            "a-name-that-is-longer-than-what-mongodb-takes-for-a-database-name",
        ),
        ("TENANTRY__REDIS__URL", "127.0.0.1"),
        ("TENANTRY__REDIS__URL", "redis://"),
        ("TENANTRY__REDIS__URL", "redis://:password@"),
        ("TENANTRY__REDIS__URL", "redis://:6379"),
        ("TENANTRY__REDIS__URL", "redis://host:port"),
        ("TENANTRY__REDIS__URL", "redis://host:70000"),
        ("TENANTRY__REDIS__URL", "redis://host/database"),
        ("TENANTRY__REDIS__URL", "redis://:pass/word@host"),
        ("TENANTRY__REDIS__URL", "redis://[::1"),
        ("TENANTRY__REDIS__URL", "http://host"),
        ("TENANTRY__REDIS__URL", "redis+pool://host"),
        ("TENANTRY__REDIS__URL", "redis://host1,host2"),
        ("TENANTRY__REDIS__URL", "redis+cluster://"),
        ("TENANTRY__REDIS__URL", "redis+cluster://host1,"),
        ("TENANTRY__REDIS__URL", "redis+cluster://host1,:6379"),
        ("TENANTRY__REDIS__URL", "redis+cluster://host1/1"),
        ("TENANTRY__REDIS__URL", "redis+cluster://:pass/word@host1"),
        ("TENANTRY__REDIS__URL", "redis+sentinel://host1:26379"),
        ("TENANTRY__REDIS__URL", "redis+sentinel://host1:26379/"),
        ("TENANTRY__REDIS__URL", "redis+sentinel://host1:26379/my master"),
        ("TENANTRY__REDIS__URL", "redis+sentinel://host1:26379/mymaster/first"),
        ("TENANTRY__REDIS__URL", "redis+sentinel://host1:70000/mymaster"),
        ("TENANTRY__REDIS__CA", "no certificate"),
        ("TENANTRY__SMTP__HOST", ""),
        ("TENANTRY__SMTP__HOST", "mail server"),
        ("TENANTRY__SMTP__FROM_NAME", "Tenantry\r\nBcc: x@example.com"),
        ("TENANTRY__API__CONCURRENCY_MAX", "10001"),
        ("TENANTRY__AUTH__HASH_CONCURRENCY", "1025"),
        ("TENANTRY__AUTH__HASH_CONCURRENCY", "18446744073709551615"),
        ("TENANTRY__MONGODB__POOL_MAX", "10001"),
        ("TENANTRY__SMTP__POOL_MAX", "4294967295"),
        ("TENANTRY__AUTH__SESSION_TTL", "3651d"),
        ("TENANTRY__JOBS__PARK_MAX", "213503982334d"),
        ("TENANTRY__JOBS__LEASE", "999ms"),
        ("TENANTRY__JOBS__CRASHES_MAX", "2"),
        ("TENANTRY__JOBS__CRASHES_MAX", "10001"),
        ("TENANTRY__JOBS__FINISHED_MAX", "10000001"),
        ("TENANTRY__JOBS__DEAD_MAX", "10000001"),
        ("TENANTRY__MAINTENANCE__PURGE_AFTER", "7d"),
    ];
    for (name, value) in bad {
        let mut pairs = vec![("TENANTRY__SMTP__TLS", "none")];
        pairs.push((name, value));
        let key = if name.ends_with("USERNAME") {
            "smtp.tls".to_owned()
        } else {
            name["TENANTRY__".len()..].to_lowercase().replace("__", ".")
        };
        assert!(mistaken_keys(&pairs).contains(&key), "{name}={value}");
    }
}

#[test]
fn unusual_but_valid_values_are_accepted() {
    let good = [
        ("TENANTRY__MONGODB__URI", "mongodb://root:p%40ss@a:1,b:2,c/?replicaSet=rs0&tls=true"),
        ("TENANTRY__MONGODB__URI", "mongodb+srv://cluster.example.com"),
        ("TENANTRY__MONGODB__DATABASE", "Tenantry_test-1"),
        ("TENANTRY__REDIS__URL", "rediss://user:p%2Fss@redis.example.com:6380/3?protocol=resp3"),
        ("TENANTRY__REDIS__URL", "redis://[::1]:6379/"),
        ("TENANTRY__REDIS__URL", "redis://[::1]"),
        ("TENANTRY__REDIS__URL", "rediss+cluster://user:p%2Fss@host1,[::1]:6380,host3:6381/"),
        ("TENANTRY__REDIS__URL", "rediss+sentinel://user:p%2Fss@host1,host2:26380/my-master.1/3"),
        ("TENANTRY__SMTP__HOST", "::1"),
        ("TENANTRY__SMTP__FROM_NAME", "Jörg & Söhne"),
        ("TENANTRY__API__CONCURRENCY_MAX", "10000"),
        ("TENANTRY__AUTH__HASH_CONCURRENCY", "1024"),
        ("TENANTRY__JOBS__DEAD_RETENTION", "3650d"),
        ("TENANTRY__JOBS__LEASE", "1s"),
    ];
    for (name, value) in good {
        let mut pairs = development();
        pairs.push((name, value));
        let loaded = Config::load(sources(&pairs));
        assert!(loaded.is_ok(), "{name}={value}: {loaded:?}");
    }
}

#[test]
fn an_invalid_server_address_is_not_printed() {
    for redis in [
        "redis://:canary@host:canary/canary",
        "canary://canary",
        "redis+canary://canary",
        "redis+cluster://:canary@canary,host:canary/canary",
        "redis+sentinel://:canary@host:canary/canary/canary",
    ] {
        let servers = [
            ("TENANTRY__MONGODB__URI", "mongodb://canary:canary@host:canary/"),
            ("TENANTRY__REDIS__URL", redis),
        ];
        let refused =
            Config::load(sources(&[development().as_slice(), &servers].concat())).unwrap_err();
        assert_eq!(refused.0.len(), 2, "{refused}");
        assert!(!refused.to_string().contains("canary"), "{refused}");
    }
}

#[test]
fn redis_is_one_server_a_cluster_or_a_master_behind_sentinels() {
    let exposed = |addresses: &[SecretString]| -> Vec<String> {
        addresses
            .iter()
            .map(|address| secrecy::ExposeSecret::expose_secret(address).to_owned())
            .collect()
    };
    let RedisUrl::Single(address) = "redis://u:p@host/3?protocol=resp3".parse().unwrap() else {
        panic!("one server")
    };
    assert_eq!(exposed(&[address]), ["redis://u:p@host/3?protocol=resp3"]);
    let RedisUrl::Cluster(nodes) = "rediss+cluster://u:p@a,[::1]:6380".parse().unwrap() else {
        panic!("a cluster")
    };
    assert_eq!(exposed(&nodes), ["rediss://u:p@a", "rediss://u:p@[::1]:6380"]);
    let RedisUrl::Sentinel { sentinels, master } =
        "redis+sentinel://u:p@a,[::1],b:1/m/3".parse().unwrap()
    else {
        panic!("sentinels")
    };
    assert_eq!(
        exposed(&sentinels),
        ["redis://u:p@a:26379/3", "redis://u:p@[::1]:26379/3", "redis://u:p@b:1/3"]
    );
    assert_eq!(master, "m");
}

#[test]
fn a_certificate_authority_for_connections_without_tls_is_a_mistake() {
    let ca = ("TENANTRY__REDIS__CA", "-----BEGIN CERTIFICATE-----");
    assert_eq!(mistaken_keys(&[ca]), ["redis.ca"]);
    assert_eq!(
        mistaken_keys(&[ca, ("TENANTRY__REDIS__URL", "redis+cluster://host")]),
        ["redis.ca"]
    );
    let secured = [ca, ("TENANTRY__REDIS__URL", "rediss+cluster://host")];
    assert!(Config::load(sources(&[development().as_slice(), &secured].concat())).is_ok());
}

#[test]
fn secrets_are_never_shown() {
    let canary = "canary-9f2b";
    for url in [
        "redis://:PASSWORD@host",
        "redis+cluster://:PASSWORD@host1,host2",
        "redis+sentinel://:PASSWORD@host1,host2/mymaster",
    ] {
        let url = url.replace("PASSWORD", canary);
        let mut pairs = development();
        pairs.extend([
            ("TENANTRY__REDIS__URL", url.as_str()),
            ("TENANTRY__REDIS__SENTINEL_PASSWORD", canary),
        ]);
        let described = format!("{:?}", Config::describe(sources(&pairs)).unwrap());
        let debugged = format!("{:?}", Config::load(sources(&pairs)).unwrap());
        pairs.push(("TENANTRY__AUTH__MASTER_KEY", canary));
        let refused = Config::load(sources(&pairs)).unwrap_err().to_string();
        for text in [described, debugged, refused] {
            assert!(!text.contains(canary), "{text}");
        }
    }
}

#[test]
fn a_secret_can_come_from_a_file_and_the_environment_wins_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let toml = folder.path().join("tenantry.toml");
    std::fs::write(
        &toml,
        "[app]\nenvironment = \"development\"\n[smtp]\nport = 2525\nhost = \"mail\"\n",
    )
    .unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let mut sources = Sources::default();
    sources.add_file(&toml);
    let variables = [
        ("TENANTRY__SMTP__PORT", "25"),
        ("TENANTRY__SMTP__PASSWORD_FILE", password.to_str().unwrap()),
    ];
    sources.add_environment(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let config = Config::load(sources).unwrap();
    assert_eq!((config.smtp.host.as_str(), config.smtp.port), ("mail", 25));
    assert_eq!(secrecy::ExposeSecret::expose_secret(&config.smtp.password), "hunter2");
}

#[test]
fn a_value_given_twice_or_from_a_missing_file_is_a_mistake() {
    let twice = [("TENANTRY__SMTP__PASSWORD", "a"), ("TENANTRY__SMTP__PASSWORD_FILE", "/dev/null")];
    assert_eq!(mistaken_keys(&twice), ["smtp.password"]);
    assert_eq!(
        mistaken_keys(&[("TENANTRY__SMTP__PASSWORD_FILE", "/nowhere/at/all")]),
        ["smtp.password"]
    );
}

#[test]
fn an_unknown_environment_is_the_only_mistake_reported() {
    let mistakes = Config::load(sources(&[("TENANTRY__APP__ENVIRONMENT", "prod")])).unwrap_err();
    assert_eq!(mistakes.0.len(), 1, "{mistakes}");
}

#[test]
fn broken_toml_names_the_file_and_not_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenantry.toml");
    std::fs::write(&path, "[redis]\nurl = \"redis://:canary").unwrap();
    let mut sources = sources(&[("TENANTRY__SMTP__PORT", "abc")]);
    sources.add_file(&path);
    let refused = Config::load(sources).unwrap_err().to_string();
    // Mistakes elsewhere are reported too.
    assert!(refused.contains("smtp.port"), "{refused}");
    assert!(refused.contains("tenantry.toml") && !refused.contains("canary"), "{refused}");
}

#[test]
fn an_unknown_section_is_a_mistake_even_if_it_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenantry.toml");
    std::fs::write(&path, "[smpt]\n[smtp]\n[redis.url]\n[queues.email.rates]\n").unwrap();
    let mut sources = sources(&development());
    sources.add_file(&path);
    let keys: Vec<String> =
        Config::load(sources).unwrap_err().0.into_iter().map(|mistake| mistake.key).collect();
    // A section cannot have the name of a key, either.
    assert_eq!(keys, ["queues.email.rates", "redis.url", "smpt"]);
}

#[test]
fn a_variable_that_cannot_be_read_or_is_not_in_capitals_is_a_mistake() {
    use std::os::unix::ffi::OsStringExt;

    let mut sources = sources(&development());
    let invalid = OsString::from_vec(b"canary\xff".to_vec());
    sources.add_environment([
        (OsString::from("TENANTRY__SMTP__HOST"), invalid.clone()),
        (OsString::from("TENANTRY__smtp__Port"), OsString::from("25")),
        (OsString::from("ANOTHER"), invalid),
    ]);
    let refused = Config::load(sources).unwrap_err();
    assert_eq!(refused.0.len(), 2, "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("smtp.host: its variable is not valid UTF-8"), "{refused}");
    assert!(refused.contains("smtp.port: the name of its variable is TENANTRY__SMTP__PORT"));
    assert!(!refused.contains("canary"), "{refused}");
}
