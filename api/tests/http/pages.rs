//! The pages that links in mails open: without scripts, and without leaking the token.

use domain::{
    identity::registrations::Registration, people::users::User, tenancy::tenants::Tenant,
};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{Answer, PASSWORD, World};

#[track_caller]
pub(crate) fn expect_page(answer: Answer, status: StatusCode, words: &str) -> Answer {
    let answer = answer.expect(status);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(
        policy.contains("form-action 'self'")
            && policy.contains("frame-ancestors 'none'")
            && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(answer.body.contains(words), "{}", answer.body);
    for foreign in
        ["<script", "javascript:", " on", "src=", "<link", "http://", "https://", "@import"]
    {
        let harmless = foreign == " on"
            && !answer.body.contains(" onclick")
            && !answer.body.contains(" onload");
        assert!(harmless || !answer.body.contains(foreign), "{foreign} is in {}", answer.body);
    }
    answer
}

#[tokio::test]
async fn opening_a_link_changes_nothing_and_its_form_verifies_once() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let token = world.link_token("ada@example.com").await;
    for _ in 0..2 {
        let page = expect_page(
            world.client.get(&format!("/verify-email?token={token}")).await,
            StatusCode::OK,
            "Verify my email address",
        );
        assert!(page.body.contains(&format!("name=\"token\" value=\"{token}\"")), "{}", page.body);
        assert!(
            page.body.contains("<form method=\"post\" action=\"/verify-email\">"),
            "{}",
            page.body
        );
        assert_eq!((world.count::<Registration>().await, world.count::<User>().await), (1, 0));
    }
    let form = format!("token={token}");
    expect_page(
        world.client.post_form("/verify-email", &form).await,
        StatusCode::OK,
        "Your email address is verified",
    );
    assert_eq!((world.count::<Registration>().await, world.count::<User>().await), (0, 1));
    // Pressing the button again changes nothing and shows success. An API client that sends the token
    // again gets an error.
    expect_page(
        world.client.post_form("/verify-email", &form).await,
        StatusCode::OK,
        "Your email address is verified",
    );
    let used = world.client.post("/api/auth/verify-email", &json!({ "token": token })).await;
    used.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK);
    assert_eq!((world.count::<User>().await, world.count::<Tenant>().await), (1, 1));
}

#[tokio::test]
async fn a_button_pressed_twice_at_once_reports_success_twice() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let form = format!("token={}", world.link_token("ada@example.com").await);
    let press = async || {
        let page = world.client.post_form("/verify-email", &form).await;
        expect_page(page, StatusCode::OK, "Your email address is verified");
    };
    tokio::join!(press(), press(), press());
    assert_eq!((world.count::<User>().await, world.count::<Tenant>().await), (1, 1));
}

#[tokio::test]
async fn a_page_without_a_usable_token_reports_it() {
    let world = World::new().await;
    let endless = format!("/verify-email?token={}", "x".repeat(300));
    for path in [
        "/verify-email",
        "/verify-email?token=",
        "/verify-email?token=%ff",
        "/verify-email?other=1",
        "/verify-email?token=a&token=b",
        &endless,
    ] {
        let answer = world.client.get(path).await;
        // A single invalid byte is replaced, as in browsers, and rejected when the form is sent.
        if path.ends_with("%ff") {
            answer.expect(StatusCode::OK);
        } else {
            expect_page(answer, StatusCode::BAD_REQUEST, "The link is invalid or has expired");
        }
    }
    for form in ["", "token=", "token=x", "other=1", "token=%00", "token=x&token=y"] {
        expect_page(
            world.client.post_form("/verify-email", form).await,
            StatusCode::BAD_REQUEST,
            "The link is invalid or has expired",
        );
    }
    let json =
        world.client.post_text("/verify-email", "application/json", "{\"token\":\"x\"}").await;
    expect_page(json, StatusCode::UNSUPPORTED_MEDIA_TYPE, "content type");
}

#[tokio::test]
async fn a_hostile_token_is_escaped() {
    let world = World::new().await;
    let page =
        world.client.get("/verify-email?token=%22%3E%3Cscript%3Ealert(1)%3C/script%3E").await;
    let page = expect_page(page, StatusCode::OK, "Verify my email address");
    assert!(page.body.contains("&quot;&gt;&lt;script&gt;"), "{}", page.body);
}

/// Mail services add parameters to links to see who follows them.
#[tokio::test]
async fn pages_ignore_what_link_trackers_append() {
    let world = World::new().await;
    for path in [
        "/verify-email",
        "/reset-password",
        "/forgot-password",
        "/invitations/accept",
        "/change-email",
    ] {
        let plain = world.client.get(&format!("{path}?token=x")).await;
        let tracked = format!("{path}?utm_source=mail&token=x&utm_source=again&mc_eid=1&fbclid");
        let tracked = world.client.get(&tracked).await;
        assert_eq!((tracked.status, &tracked.body), (plain.status, &plain.body), "{path}");
        assert!(tracked.header("content-type").starts_with("text/html"), "{path}: {tracked:?}");
    }
}
