//! One trace from the request through the outbox to the job, exported to a collector.

use std::{collections::BTreeSet, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, span::SpanKind},
};
use serde_json::json;

use crate::{collector, support::prepared};

const DEADLINE: Duration = Duration::from_mins(1);
const TRACE: [u8; 16] = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match attributes
        .iter()
        .find(|attribute| attribute.key == key)?
        .value
        .as_ref()?
        .value
        .as_ref()?
    {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// The spans that `service` exported.
fn all_spans<'a>(
    exports: &'a [ExportTraceServiceRequest],
    service: &'a str,
) -> impl Iterator<Item = &'a Span> {
    let of_service = move |spans: &&ResourceSpans| {
        let resource = spans.resource.as_ref();
        resource.and_then(|resource| text(&resource.attributes, "service.name")).as_deref()
            == Some(service)
    };
    let spans = exports.iter().flat_map(|export| &export.resource_spans).filter(of_service);
    spans.flat_map(|spans| &spans.scope_spans).flat_map(|spans| &spans.spans)
}

/// Those that are named `name`.
fn spans(exports: &[ExportTraceServiceRequest], service: &str, name: &str) -> Vec<Span> {
    all_spans(exports, service).filter(|span| span.name == name).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_job_are_exported_in_the_callers_trace() {
    let env = prepared().await;
    let (address, exports) = collector::start().await;
    let endpoint = format!("http://{address}");
    let settings = [("TENANTRY__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str())];
    let (api, worker) =
        (env.spawn_api_with(&settings).await, env.spawn_worker_with(&settings).await);

    let person = json!({ "email": "ann@example.com", "password": "correct horse battery", "name": "Ann", "tenant_name": "Acme" });
    let request = reqwest::Client::new()
        .post(format!("{}/api/auth/register", api.url()))
        .header("traceparent", TRACEPARENT);
    assert_eq!(request.json(&person).send().await.unwrap().status(), 202);
    env.mail().wait_for(|_| true, DEADLINE).await;
    // The remaining spans are exported when a process stops.
    assert!(api.stop_within(DEADLINE).await.success(), "{}", api.log_tail(20));
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));

    let exports = exports.lock().unwrap();
    let (requests, jobs) = (spans(&exports, "api", "request"), spans(&exports, "worker", "job"));
    let request = requests.iter().find(|span| span.trace_id == TRACE).unwrap();
    let job = jobs
        .iter()
        .find(|span| {
            text(&span.attributes, "kind").as_deref() == Some("registration.send_verification")
        })
        .unwrap();
    assert_eq!((&job.trace_id, &job.parent_span_id), (&request.trace_id, &request.span_id));
    // The job also links to the request that staged it, with messaging attributes.
    let links: Vec<_> = job.links.iter().map(|link| (&link.trace_id, &link.span_id)).collect();
    assert_eq!(links, [(&request.trace_id, &request.span_id)]);
    assert_eq!(job.kind(), SpanKind::Consumer);
    let attribute = |name: &str| text(&job.attributes, &format!("messaging.{name}"));
    let described =
        ["system", "destination.name", "operation.type", "operation.name"].map(attribute);
    assert_eq!(
        described,
        ["redis", "email", "process", "process"].map(|text| Some(text.to_owned()))
    );
    assert!(attribute("message.id").is_some_and(|id| id.starts_with("job_")));
    // What the request and the job waited for has spans of its own within theirs.
    let calls_of = |service: &str, parent: &Span| -> BTreeSet<String> {
        let calls = all_spans(&exports, service);
        let calls = calls.filter(|span| span.parent_span_id == parent.span_id);
        calls.map(|span| span.name.clone()).collect()
    };
    let of_request = calls_of("api", request);
    for call in ["hash password", "EVALSHA", "insert registrations", "commitTransaction"] {
        assert!(of_request.contains(call), "{call} {of_request:?}");
    }
    let of_job = calls_of("worker", job);
    for call in ["find registrations", "send mail verification"] {
        assert!(of_job.contains(call), "{call} {of_job:?}");
    }
    // Background work has no request or job, and exports no traces.
    let named = |name: &str| all_spans(&exports, "worker").any(|span| span.name == name);
    assert!(named("job") && !named("find schedules"));
    assert!(!exports.iter().any(|export| format!("{export:?}").contains("ann@example.com")));
    assert!(!exports.iter().any(|export| format!("{export:?}").contains("correct horse")));
}

/// A caller that does not sample decides for the request and its jobs.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_the_caller_does_not_sample_is_not_exported() {
    let env = prepared().await;
    let (address, exports) = collector::start().await;
    let endpoint = format!("http://{address}");
    let settings = [("TENANTRY__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str())];
    let api = env.spawn_api_with(&settings).await;
    let client = reqwest::Client::new();
    for traceparent in [TRACEPARENT.replace("-01", "-00"), TRACEPARENT.replace("4bf9", "5bf9")] {
        let request = client.get(format!("{}/api/auth/me", api.url()));
        let request = request.header("traceparent", &traceparent);
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    assert!(api.stop_within(DEADLINE).await.success(), "{}", api.log_tail(20));
    let exports = exports.lock().unwrap();
    let mut sampled = TRACE;
    sampled[0] = 0x5b;
    let requests = spans(&exports, "api", "request");
    assert_eq!(requests.iter().map(|span| &span.trace_id).collect::<Vec<_>>(), [&sampled[..]]);
}
