//! Forged `Host` headers have no effect: links in mails use the configured origin, and no page
//! leads to another one.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    people::People,
    support::{Answer, DEADLINE, PASSWORD, World, eventually},
};

/// The host that an attacker wants links to use.
const EVIL: &str = "evil.example";
const FORGED: &[(&str, &str)] = &[
    ("host", EVIL),
    ("x-forwarded-host", EVIL),
    ("x-forwarded-server", EVIL),
    ("x-forwarded-proto", "gopher"),
    ("x-forwarded-prefix", "//evil.example"),
    ("x-original-url", "//evil.example/"),
    ("x-host", EVIL),
    ("forwarded", "for=192.0.2.1;host=evil.example;proto=gopher"),
    ("origin", "https://evil.example"),
    ("referer", "https://evil.example/"),
];
/// URLs to which a hostile link tries to redirect.
const ELSEWHERE: &[&str] = &[
    "//evil.example",
    "https://evil.example",
    "/\\evil.example",
    "javascript:alert(1)",
    "data:text/html,evil",
    "%0d%0aLocation:%20//evil.example",
];

async fn forged(world: &World, token: Option<&str>, path: &str, body: &Value) -> Answer {
    let request =
        FORGED.iter().fold(world.client.request(Method::POST, path), |request, (name, value)| {
            request.header(*name, *value)
        });
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    Answer::of(request.json(body)).await
}

#[tokio::test]
async fn links_in_mails_use_the_configured_origin_despite_a_forged_host() {
    // Even if a proxy sends the forged host that is trusted for IP addresses.
    let world = World::with(&[("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let _worker = world.env.spawn_worker().await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let send = async |token: Option<&str>, path: &str, body: Value| {
        let answer = forged(&world, token, path, &body).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        assert!(!format!("{answer:?}").contains(EVIL), "{path}: {answer:?}");
    };
    let register = json!({ "email": "ada@example.com", "password": PASSWORD, "name": "Ada", "tenant_name": "Engines" });
    send(None, "/api/auth/register", register).await;
    send(None, "/api/auth/password/forgot", json!({ "email": "eve@example.com" })).await;
    send(Some(&eve.token), "/api/auth/email/change", json!({ "new_email": "eve@example.org" }))
        .await;
    send(
        Some(&eve.token),
        "/api/tenant/users/invite",
        json!({ "email": "bob@example.com", "role": "viewer" }),
    )
    .await;
    send(None, "/api/auth/login", json!({ "email": "eve@example.com", "password": PASSWORD }))
        .await;

    let paths = [
        "/verify-email?token=",
        "/reset-password?token=",
        "/change-email?token=",
        "/invitations/accept?token=",
    ];
    let mails = eventually("all links are mailed", async || {
        let mails = world.env.mail().messages();
        let is_there = |path: &&str| mails.iter().any(|mail| mail.text.contains(*path));
        paths.iter().all(is_there).then_some(mails)
    })
    .await;
    for mail in mails {
        assert!(
            ![&mail.subject, &mail.text, &mail.html].iter().any(|text| text.contains(EVIL)),
            "{mail:?}"
        );
        for link in mail.text.split_whitespace().filter(|word| word.contains("://")) {
            assert!(link.starts_with(&world.config.app.public_url), "{link} in {mail:?}");
        }
    }
    world.env.mail().wait_for(|mail| mail.to == ["eve@example.org"], DEADLINE).await;
}

#[tokio::test]
async fn a_next_parameter_cannot_redirect_a_page_elsewhere() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let token = world.link_token("ada@example.com").await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let ask = json!({ "new_email": "eve@example.org" });
    world
        .client
        .post_body_as(&eve.token, "/api/auth/email/change", &ask)
        .await
        .expect(StatusCode::ACCEPTED);
    let pages = [
        "/verify-email",
        "/reset-password",
        "/change-email",
        "/change-email/cancel",
        "/invitations/accept",
        "/api/docs/",
        "/nowhere",
    ];
    for next in ELSEWHERE {
        for name in ["next", "redirect", "redirect_uri", "return_to", "url", "continue"] {
            let query = format!("token={token}&{name}={next}");
            for page in pages {
                let shown = world
                    .client
                    .request(Method::GET, &format!("{page}?{query}"))
                    .header("host", EVIL);
                leads_nowhere(&Answer::of(shown).await, page);
                // Has no effect on the token: it belongs to another page, or the form has an
                // additional field.
                let posted = world
                    .client
                    .post_form(&format!("{page}?{query}"), &format!("token=x&{name}={next}"))
                    .await;
                leads_nowhere(&posted, page);
            }
        }
    }
    let done = world
        .client
        .post_form(
            "/verify-email?next=//evil.example",
            &format!("token={token}&next=//evil.example"),
        )
        .await;
    leads_nowhere(&done.expect(StatusCode::OK), "/verify-email");
}

/// The status of the response to a request on a connection of its own.
async fn status_of(url: &str, request: &str) -> u16 {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    timeout(DEADLINE, stream.read_exact(&mut first)).await.unwrap().unwrap();
    str::from_utf8(&first[9..]).unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_listener_refuses_requests_that_a_proxy_may_read_differently() {
    let world = World::spawned(&[]).await;
    let worker = world.env.spawn_worker().await;
    let internal = world.api.process().internal_url();
    for (url, path) in [
        (world.api.url(), "/.well-known/jwks.json"),
        (internal, "/health/live"),
        (worker.internal_url(), "/health/live"),
    ] {
        let host = "Host: 127.0.0.1\r\n";
        let chunked = "Transfer-Encoding: chunked\r\n";
        let get = async |version: &str, head: &[&str], body: &str| {
            let request = format!("GET {path} HTTP/{version}\r\n{}\r\n{body}", head.concat());
            status_of(&url, &request).await
        };
        assert_eq!(get("1.1", &[host], "").await, 200, "{url}");
        assert_eq!(get("1.0", &[], "").await, 200, "{url}");
        assert_eq!(get("1.1", &[host, chunked], "0\r\n\r\n").await, 200, "{url}");
        assert_eq!(get("1.1", &[], "").await, 400, "{url}: no host");
        assert_eq!(get("1.1", &[host, host], "").await, 400, "{url}: two hosts");
        for doubled in [
            [chunked, chunked].concat(),
            "Transfer-Encoding: chunked, chunked\r\n".to_owned(),
            ["Transfer-Encoding: identity\r\n", chunked].concat(),
        ] {
            assert_eq!(get("1.1", &[host, &doubled], "0\r\n\r\n").await, 400, "{url}: {doubled}");
        }
    }
}

/// DNS rebinding: a website's own name resolves to an address of ours.
#[tokio::test]
async fn internal_listeners_answer_no_unknown_hosts() {
    let world = World::spawned(&[("TENANTRY__API__INTERNAL_HOSTS", "api.internal")]).await;
    let worker = world
        .env
        .spawn_worker_with(&[("TENANTRY__WORKER__INTERNAL_HOSTS", "worker.internal")])
        .await;
    for (url, name) in [
        (world.api.process().internal_url(), "api.internal"),
        (worker.internal_url(), "worker.internal"),
    ] {
        let get = async |host: &str| {
            let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n");
            status_of(&url, &request).await
        };
        for known in ["127.0.0.1:4001", "10.0.0.7", "[::1]:4001", "localhost", name] {
            assert_eq!(get(known).await, 200, "{known}");
        }
        for unknown in [EVIL, "evil.example:4001", "127.0.0.1.evil.example", ""] {
            assert_eq!(get(unknown).await, 421, "{unknown}");
        }
    }
}

#[track_caller]
fn leads_nowhere(answer: &Answer, page: &str) {
    assert!(
        !answer.status.is_redirection()
            && answer.header("location").is_empty()
            && answer.header("refresh").is_empty(),
        "{page}: {answer:?}"
    );
    assert!(
        !answer.body.contains("evil") && !answer.body.contains("alert(1)"),
        "{page}: {answer:?}"
    );
}
