//! `apalis-board` over our queues, on the internal listener: it shows, and changes nothing.
//!
//! The listener has no login, so every method but reading is refused before it reaches the board,
//! and the backend here takes no tasks either. Whatever is to be changed goes through `worker
//! queues` and `worker jobs`.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use apalis_board::axum::{
    framework::{
        ApiBuilder, RegisterRoute,
        axum::{fetch_queues, get_all_tasks, get_all_workers, overview},
    },
    ui::ServeUI,
};
use apalis_core::{
    backend::{
        Backend, BackendConfig, FetchById, Filter, ListAllTasks, ListQueues, ListTasks,
        ListWorkers, Metrics, QueueInfo, RunningWorker, StatType, Statistic, TaskSink,
        TaskSinkError, WireFormatBackend, codec::Codec, finalize::Ephemeral,
    },
    task::{Task, builder::TaskBuilder, status::Status, task_id::TaskId},
    worker::context::WorkerContext,
};
use axum::{
    Extension, Router,
    extract::Request,
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{
        IntoResponse, Redirect, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures::Stream;
use jobs::{
    ControlError, JobFilter, JobState, JobStatus, JobView, Jobs, PAGE_MAX, Queue, QueueView,
    queue::ConsumerStats,
};
use serde_json::{Value, json};
use tokio::sync::RwLock;

/// How far into a list the board's pages go; `worker jobs list` goes on from there.
const SHOWN_MAX: usize = 1_000;

/// The board's pages: itself at `/board`, what it asks for beneath `/api/v1`.
pub(crate) fn routes(jobs: &Jobs) -> Router {
    let api = ApiBuilder::new_with_router(of_all_queues(jobs), false);
    let api = Queue::ALL
        .iter()
        .fold(api, |api, queue| api.register(queue.name(), Shown::new(jobs, *queue)));
    Router::new()
        .nest("/api/v1", api.build())
        // The page knows itself at `/` only.
        .route("/board", get(|| async { Redirect::temporary("/") }))
        .fallback_service(ServeUI::new())
        .layer(middleware::from_fn(only_reading))
}

/// What is asked for all queues together, of which any queue's backend tells. The builder would add
/// these by itself, with its own `/events`: that one keeps a channel for everybody who ever looked.
fn of_all_queues(jobs: &Jobs) -> Router {
    Router::new()
        .route("/queues", get(fetch_queues::<Shown>))
        .route("/tasks", get(get_all_tasks::<Shown>))
        .route("/workers", get(get_all_workers::<Shown>))
        .route("/overview", get(overview::<Shown>))
        .layer(Extension(Arc::new(RwLock::new(Shown::new(jobs, Queue::Email)))))
        .route("/events", get(no_events))
}

/// The page listens for log lines here, and calls the system unhealthy where it cannot. Ours go to
/// the log.
async fn no_events() -> impl IntoResponse {
    Sse::new(futures::stream::pending::<Result<Event, Infallible>>())
        .keep_alive(KeepAlive::default())
}

async fn only_reading(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    (StatusCode::METHOD_NOT_ALLOWED, "the board only shows; see `worker jobs --help`\n")
        .into_response()
}

/// One queue, as the board asks for it. A backend that gives no tasks and takes none.
struct Shown {
    jobs: Jobs,
    queue: Queue,
}

/// The board passes on what it is given.
struct AsItIs;

impl Codec<Value> for AsItIs {
    type Error = serde_json::Error;
    type Compact = Value;

    fn encode(&self, value: &Value) -> Result<Value, serde_json::Error> {
        Ok(value.clone())
    }

    fn decode(&self, value: &Value) -> Result<Value, serde_json::Error> {
        Ok(value.clone())
    }
}

impl Shown {
    fn new(jobs: &Jobs, queue: Queue) -> Self {
        Self { jobs: jobs.clone(), queue }
    }

    /// The jobs of some queues that a page of the board is for.
    async fn page(
        &self,
        queues: &[Queue],
        filter: &Filter,
    ) -> Result<Vec<Task<Value>>, ControlError> {
        let size = usize::try_from(filter.limit()).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let skip = size
            .saturating_mul(usize::try_from(filter.page.saturating_sub(1)).unwrap_or(SHOWN_MAX));
        let wanted = skip.saturating_add(size).min(SHOWN_MAX);
        let (mut found, all) = (Vec::new(), JobFilter::default());
        for state in states(filter.status.as_ref()) {
            for queue in queues {
                let mut after = None;
                while found.len() < wanted {
                    let page = self
                        .jobs
                        .list(*queue, *state, &all, after.as_ref(), wanted - found.len())
                        .await?;
                    found.extend(page.jobs);
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(found.iter().skip(skip).map(task).collect())
    }

    async fn workers(&self, queue: Queue) -> Result<Vec<RunningWorker>, ControlError> {
        let now_ms = self.jobs.store().clock().now().timestamp_millis();
        let consumers = self.jobs.broker().consumers(queue).await?;
        Ok(consumers.into_iter().map(|consumer| worker(queue, consumer, now_ms)).collect())
    }
}

/// Our states by what the board calls them. A job that failed and will be tried again is pending
/// here, one that will not is killed; those that are done leave Redis at once.
fn states(status: Option<&Status>) -> &'static [JobState] {
    match status {
        None => JobState::ALL,
        Some(Status::Pending) => {
            &[JobState::Staged, JobState::Held, JobState::Delayed, JobState::Ready]
        }
        Some(Status::Queued) => &[JobState::Ready],
        Some(Status::Running) => &[JobState::Running],
        Some(Status::Killed) => &[JobState::Dead],
        Some(_) => &[],
    }
}

/// A job in the board's words; times are seconds there. The page leaves out what has no queue, and
/// breaks at what has no id or no time, which bytes that nobody can read have not.
fn task(job: &JobView) -> Task<Value> {
    let details = job.details();
    let carries = details.map(|details| json!({ "kind": details.kind, "tenant": details.tenant, "payload": details.payload }));
    let id = job.id.map_or_else(|| "unreadable".to_owned(), |id| id.to_string());
    let mut task = TaskBuilder::new(carries.unwrap_or(Value::Null)).queue(job.queue.name().into());
    task = task.task_id(TaskId::from_string(id)).run_at_timestamp(seconds(run_at(job)));
    task = task
        .attempt(details.and_then(|details| details.attempt.try_into().ok()).unwrap_or_default());
    task = match &job.status {
        JobStatus::Staged | JobStatus::Held | JobStatus::Delayed { .. } => {
            task.status(Status::Pending)
        }
        JobStatus::Ready { .. } => task.status(Status::Queued),
        JobStatus::Running { consumer, ready_at, .. } => task
            .status(Status::Running)
            .lock_by(Some(consumer.clone()))
            .lock_at(Some(seconds(*ready_at))),
        JobStatus::Dead { died_at, .. } => {
            task.status(Status::Killed).done_at(Some(seconds(*died_at)))
        }
    };
    task.build()
}

/// When a job is, or was, to start.
fn run_at(job: &JobView) -> i64 {
    let due = || job.details().map(|details| details.due_at.unwrap_or(details.enqueued_at));
    match job.status {
        JobStatus::Delayed { until } => until,
        JobStatus::Ready { ready_at } | JobStatus::Running { ready_at, .. } => {
            due().unwrap_or(ready_at)
        }
        JobStatus::Dead { died_at, .. } => due().unwrap_or(died_at),
        JobStatus::Staged | JobStatus::Held => due().unwrap_or_default(),
    }
}

fn seconds(millis: i64) -> u64 {
    u64::try_from(millis / 1_000).unwrap_or_default()
}

fn worker(queue: Queue, consumer: ConsumerStats, now_ms: i64) -> RunningWorker {
    let seen_ms = u64::try_from(now_ms).unwrap_or_default().saturating_sub(consumer.silence_ms);
    RunningWorker {
        started_at: consumer.started_at_ms().unwrap_or_default() / 1_000,
        id: consumer.name,
        queue: queue.name().to_owned(),
        backend: "Redis Streams".to_owned(),
        last_heartbeat: seen_ms / 1_000,
        layers: String::new(),
    }
}

/// How some queues stand together, under the titles that the page knows; it counts what has no such
/// title as nothing.
fn statistics(views: &[QueueView]) -> Vec<Statistic> {
    let sum = |number: fn(&QueueView) -> u64| views.iter().map(number).sum::<u64>();
    let pending = sum(|view| view.ready + view.held + view.delayed);
    let (running, dead) = (sum(|view| view.running), sum(|view| view.dead));
    let numbers = [
        ("TOTAL_JOBS", pending + running + dead),
        ("PENDING_JOBS", pending),
        ("RUNNING_JOBS", running),
        ("KILLED_JOBS", dead),
    ];
    let statistic = |(priority, (title, value)): (u64, (&str, u64))| Statistic {
        title: title.to_owned(),
        stat_type: StatType::Number,
        value: value.to_string(),
        priority: Some(priority),
    };
    (1..).zip(numbers).map(statistic).collect()
}

impl Backend for Shown {
    type Task = Task<Value>;
    type Error = ControlError;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), ControlError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Value>, ControlError>>> {
        Poll::Ready(None)
    }

    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), ControlError>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Shown {
    type Args = Value;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = ();

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) {}
}

impl WireFormatBackend for Shown {
    type Codec = AsItIs;
    type Compact = Value;

    fn codec(&self) -> &AsItIs {
        &AsItIs
    }
}

impl FetchById for Shown {
    async fn fetch_by_id(&mut self, id: &TaskId) -> Result<Option<Task<Value>>, ControlError> {
        let Ok(id) = id.to_string().parse() else { return Ok(None) };
        Ok(self.jobs.find(id).await?.filter(|job| job.queue == self.queue).as_ref().map(task))
    }
}

impl ListTasks for Shown {
    async fn list_tasks(&self, filter: &Filter) -> Result<Vec<Task<Value>>, ControlError> {
        self.page(&[self.queue], filter).await
    }
}

impl ListAllTasks for Shown {
    async fn list_all_tasks(&self, filter: &Filter) -> Result<Vec<Task<Value>>, ControlError> {
        self.page(Queue::ALL, filter).await
    }
}

impl ListQueues for Shown {
    async fn list_queues(&self) -> Result<Vec<QueueInfo>, ControlError> {
        let mut queues = Vec::with_capacity(Queue::ALL.len());
        for queue in Queue::ALL {
            let workers = self
                .jobs
                .broker()
                .consumers(*queue)
                .await?
                .into_iter()
                .map(|consumer| consumer.name)
                .collect();
            let stats = statistics(&[self.jobs.queue(*queue).await?]);
            // Finished jobs leave Redis at once; Prometheus has what was.
            queues.push(QueueInfo {
                name: queue.name().to_owned(),
                stats,
                workers,
                activity: Vec::new(),
            });
        }
        Ok(queues)
    }
}

impl ListWorkers for Shown {
    async fn list_workers(&self) -> Result<Vec<RunningWorker>, ControlError> {
        self.workers(self.queue).await
    }

    async fn list_all_workers(&self) -> Result<Vec<RunningWorker>, ControlError> {
        let mut workers = Vec::new();
        for queue in Queue::ALL {
            workers.extend(self.workers(*queue).await?);
        }
        Ok(workers)
    }
}

impl Metrics for Shown {
    async fn global(&self) -> Result<Vec<Statistic>, ControlError> {
        let mut views = Vec::with_capacity(Queue::ALL.len());
        for queue in Queue::ALL {
            views.push(self.jobs.queue(*queue).await?);
        }
        Ok(statistics(&views))
    }

    async fn fetch_by_queue(&self) -> Result<Vec<Statistic>, ControlError> {
        Ok(statistics(&[self.jobs.queue(self.queue).await?]))
    }
}

fn refused() -> TaskSinkError<ControlError> {
    TaskSinkError::CodecError("the board only shows".into())
}

impl TaskSink<Value, Ephemeral> for Shown {
    fn start_send(self: Pin<&mut Self>, _: Task<Value>) -> Result<(), TaskSinkError<ControlError>> {
        Err(refused())
    }

    fn poll_ready(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), TaskSinkError<ControlError>>> {
        Poll::Ready(Err(refused()))
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), TaskSinkError<ControlError>>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), TaskSinkError<ControlError>>> {
        Poll::Ready(Ok(()))
    }

    async fn push(&mut self, _: Value) -> Result<(), TaskSinkError<ControlError>> {
        Err(refused())
    }

    async fn push_bulk(&mut self, _: Vec<Value>) -> Result<(), TaskSinkError<ControlError>> {
        Err(refused())
    }

    async fn push_stream(
        &mut self,
        _: impl Stream<Item = Value> + Unpin + Send,
    ) -> Result<(), TaskSinkError<ControlError>> {
        Err(refused())
    }

    async fn push_task(&mut self, _: Task<Value>) -> Result<(), TaskSinkError<ControlError>> {
        Err(refused())
    }

    async fn push_all(
        &mut self,
        _: impl Stream<Item = Task<Value>> + Unpin + Send,
    ) -> Result<(), TaskSinkError<ControlError>> {
        Err(refused())
    }
}
