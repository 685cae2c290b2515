//! Response times do not reveal who has an account.
//!
//! The two kinds of requests alternate as A B B A, so that drift of the machine affects both alike,
//! and each round yields one ratio. The median of the ratios may differ from 1 by 5 % (OWASP ASVS
//! 6.3.8) plus noise: three standard errors, and the difference between the first and the last A,
//! which are equal.

use std::time::Instant;

use reqwest::StatusCode;
use serde_json::json;
use testkit::servers::Reply;

use crate::support::{Client, UNTHROTTLED, World};

const KNOWN: &str = "ada@example.com";
/// For tests that request more mails than people do.
const UNTHROTTLED_MAILS: &[(&str, &str)] = &[
    ("TENANTRY__AUTH__MAILS_PER_NETWORK", "100000"),
    ("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "100000"),
];

/// The account that a request is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Known,
    Unknown,
}

impl Whose {
    const ROUND: [Self; 4] = [Self::Known, Self::Unknown, Self::Unknown, Self::Known];

    /// Its email address; an unknown one differs each time.
    fn address(self, number: usize) -> String {
        match self {
            Self::Known => KNOWN.to_owned(),
            Self::Unknown => format!("nobody{number}@example.com"),
        }
    }
}

/// Logarithms of ratios.
struct Ratios(Vec<f64>);

impl Ratios {
    fn median(&self) -> f64 {
        median(&self.0)
    }

    /// The standard error of the median, from a spread that ignores outliers.
    fn error(&self) -> f64 {
        let middle = self.median();
        let deviations: Vec<f64> = self.0.iter().map(|ratio| (ratio - middle).abs()).collect();
        #[expect(clippy::cast_precision_loss, reason = "there are a few dozen")]
        let root = (self.0.len() as f64).sqrt();
        1.2533 * 1.4826 * median(&deviations) / root
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

/// Checks that `ask`, which returns its duration in seconds, takes the same time for both, with a
/// tolerance of `allowed`.
async fn expect_the_same_time(rounds: usize, allowed: f64, ask: impl AsyncFn(Whose, usize) -> f64) {
    let (mut gaps, mut controls) = (Ratios(Vec::new()), Ratios(Vec::new()));
    for round in 0..rounds {
        let mut took = [0.0; 4];
        for (at, whose) in Whose::ROUND.into_iter().enumerate() {
            took[at] = ask(whose, 4 * round + at).await;
        }
        let [known, unknown, unknown_again, known_again] = took.map(f64::ln);
        gaps.0.push(f64::midpoint(unknown, unknown_again) - f64::midpoint(known, known_again));
        controls.0.push(known_again - known);
    }
    let (gap, control) = (gaps.median(), controls.median());
    let bound = allowed + 3.0 * gaps.error() + control.abs();
    let told = format!(
        "unknown ÷ known {:.3}, known ÷ known {:.3}, within a factor of {:.3}",
        gap.exp(),
        control.exp(),
        bound.exp()
    );
    println!("{told}");
    assert!(gap.abs() <= bound, "{told}");
}

/// Duration of a rejected sign-in in seconds.
async fn sign_in(client: &Client, email: &str, password: &str) -> f64 {
    let begun = Instant::now();
    let answer =
        client.post("/api/auth/login", &json!({ "email": email, "password": password })).await;
    let took = begun.elapsed().as_secs_f64();
    answer.expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    took
}

#[tokio::test]
async fn signing_in_takes_the_same_time_with_or_without_an_account() {
    let world = World::spawned(UNTHROTTLED).await;
    world.make_account(KNOWN).await;
    for password in ["wrong horse", ""] {
        let answer = async |whose: Whose| world.login(&whose.address(0), password).await;
        let (known, unknown) = (answer(Whose::Known).await, answer(Whose::Unknown).await);
        assert_eq!((known.status, known.without_id()), (unknown.status, unknown.without_id()));
        expect_the_same_time(40, 0.05, async |whose, number| {
            sign_in(&world.client, &whose.address(number), password).await
        })
        .await;
    }
}

/// Lazy initialization must not slow down only one of the two.
#[tokio::test]
async fn the_first_sign_in_of_a_process_takes_the_same_time_with_or_without_an_account() {
    let world = World::spawned(UNTHROTTLED).await;
    world.make_account(KNOWN).await;
    let first = async |whose: Whose, number: usize| {
        let (_api, client) = world.another_process().await;
        // The time to connect is not measured.
        client.get("/api/auth/me").await.expect(StatusCode::UNAUTHORIZED);
        sign_in(&client, &whose.address(number), "wrong horse").await
    };
    expect_the_same_time(5, 0.2, first).await;
}

#[tokio::test]
async fn registering_takes_the_same_time_with_or_without_an_account() {
    let world = World::spawned(UNTHROTTLED_MAILS).await;
    world.make_account(KNOWN).await;
    let register = async |whose: Whose, number: usize| {
        let begun = Instant::now();
        let answer = world.register(&whose.address(number)).await;
        let took = begun.elapsed().as_secs_f64();
        assert_eq!(
            answer.expect(StatusCode::ACCEPTED).json(),
            json!({ "status": "verification_email_sent" })
        );
        took
    };
    expect_the_same_time(30, 0.05, register).await;
}

#[tokio::test]
async fn requesting_a_link_takes_the_same_time_while_the_mail_server_hangs() {
    let world = World::spawned(UNTHROTTLED_MAILS).await;
    let _worker = world.env.spawn_worker().await;
    world.make_account(KNOWN).await;
    world.env.mail().reply(Reply::Hold);
    let ask = async |whose: Whose, number: usize| {
        let begun = Instant::now();
        let answer = world
            .client
            .post("/api/auth/password/forgot", &json!({ "email": whose.address(number) }))
            .await;
        let took = begun.elapsed().as_secs_f64();
        answer.expect(StatusCode::ACCEPTED);
        took
    };
    // Milliseconds, part of which the worker uses for a known one on the same cores.
    expect_the_same_time(40, 0.1, ask).await;
}

/// A request without a hash simulates an email address for which no password is hashed.
#[tokio::test]
#[should_panic(expected = "unknown ÷ known")]
async fn the_comparison_notices_a_missing_hash() {
    let world = World::spawned(UNTHROTTLED).await;
    let ask = async |whose: Whose, number: usize| match whose {
        Whose::Known => sign_in(&world.client, KNOWN, "wrong horse").await,
        Whose::Unknown => {
            let begun = Instant::now();
            world.client.get(&format!("/verify-email?token={number}")).await.expect(StatusCode::OK);
            begun.elapsed().as_secs_f64()
        }
    };
    expect_the_same_time(5, 0.05, ask).await;
}
