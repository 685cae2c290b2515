//! The examples of `docs/api-keys.md` compute what the API verifies. Each runs with its interpreter,
//! if the machine has it.

#![expect(clippy::unwrap_used, reason = "a test fails if it cannot continue")]

use std::{
    io::ErrorKind,
    process::{Command, Output},
};

use common::crypto::{PlainApiKey, SigningSecret};
use domain::access::signed_requests::{Signature, Signed};
use mongodb::bson::DateTime;

const GUIDE: &str = include_str!("../../docs/api-keys.md");
const SECRET: &str = "tks_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg";
const TARGET: &str = "/api/tenant/users/invite";
const BODY: &str = r#"{"email":"bob@example.com","role":"member"}"#;
const NOW: i64 = 1_796_083_200;

/// The block in this language that defines `signature`.
fn example(language: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let blocks = GUIDE.split(fence.as_str()).skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains("signature(")).unwrap()
}

fn expected(target: &str, body: &str, method: &str) -> String {
    let signed = Signed { method, target, body: body.as_bytes() };
    let now = DateTime::from_millis(NOW * 1000);
    Signature::make(&SigningSecret::from(SECRET), signed, now).header()
}

/// What the program prints; none if the machine does not have it.
fn printed(program: &str, args: &[&str]) -> Option<String> {
    let ran = Command::new(program).args(args).env("NOW", NOW.to_string()).output();
    let Output { status, stdout, stderr } = match ran {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("{program}: {error}"),
    };
    assert!(status.success(), "{program}: {}", String::from_utf8_lossy(&stderr));
    Some(String::from_utf8(stdout).unwrap().trim().to_owned())
}

#[test]
fn every_example_signs_as_the_api_verifies() {
    let written = GUIDE.lines().find_map(|line| line.strip_prefix("X-Signature: ")).unwrap();
    assert_eq!(written, expected(TARGET, BODY, "POST"));
    assert!(GUIDE.contains(SECRET) && GUIDE.contains(BODY) && GUIDE.contains(TARGET));
    let (python, js, sh) = (example("python"), example("js"), example("sh"));
    let requests = [
        ("POST", TARGET, BODY),
        ("GET", "/api/tenant/current", ""),
        ("PUT", "/api/tenant/users/usr_0192a0b8c0de7000800000000000cafe?q=%C3%A9", "ä\n"),
    ];
    for (method, target, body) in requests {
        let expected = expected(target, body, method);
        let call = format!("{SECRET:?}, {method:?}, {target:?}, {body:?}");
        let in_python = format!("{python}\nprint(signature({call}.encode(), {NOW}))");
        let in_js = format!("{js}\nconsole.log(signature({call}, {NOW}))");
        let in_shell = format!("{sh}\nsignature \"$@\"");
        let shell_args = ["-c", &in_shell, "sh", SECRET, method, target, body];
        for printed in [
            printed("python3", &["-c", &in_python]),
            printed("node", &["-e", &in_js]),
            printed("sh", &shell_args),
        ] {
            assert!(printed.is_none_or(|printed| printed == expected), "{method} {target}");
        }
    }
}

#[test]
fn the_example_of_a_key_has_the_documented_form() {
    let example = "tk_0123456789ABCDEFGHIJKLMNOPQRSTUV1g2LEg";
    assert!(GUIDE.contains(example) && PlainApiKey::parse(example).is_some());
    assert!(GUIDE.contains(r"\btk_[0-9A-Za-z]{38}\b") && example.len() == "tk_".len() + 38);
    assert_eq!(SECRET.len(), "tks_".len() + 43);
}
