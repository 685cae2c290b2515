//! `worker mail check` tells whether the mail server answers.

use std::process::{Command, Output};

use testkit::testing::TestEnv;

fn check(env: &TestEnv) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(["mail", "check"]).env_clear().envs(env.config_env());
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_server_answers_or_the_reason_is_given() {
    let env = TestEnv::new().await;
    let (status, told) = check(&env);
    assert_eq!(status, Some(0), "{told}");
    assert!(env.mail().messages().is_empty(), "no mail is sent");

    env.mail().stop().await;
    let (status, told) = check(&env);
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("smtp.host"), "{told}");
}
