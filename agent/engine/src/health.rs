//! Health checks: a probe in the container from time to time.

use crate::clock;
use crate::container::{Container, Run};
use crate::engine::Inner;
use crate::error::Result;
use crate::phase::Phase;
use crate::signal;
use crate::spec::exec_process;
use muster_runtime::{ExecRequest, ExecSession, Output};
use muster_types::container::{HealthCheck, HealthProbe, HealthState};
use std::sync::Arc;
use std::time::Duration;

/// Docker's defaults.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const START_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
const RETRIES_DEFAULT: u64 = 3;
/// Probes remembered; Docker's number.
const PROBES_MAX: usize = 5;
/// Bytes of output remembered of a probe; Docker's number.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Longest start of a probe. It does not count as the probe's own time, because the host may be busy; Docker's number.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the end of a probe that was killed: one that waits for the kernel is left alone after it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Exit code of a probe that did not end in time, or could not run.
const CODE_FAILED: i32 = -1;

/// A health check with nothing left open.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    retries: u64,
    start_period: Duration,
    start_interval: Duration,
}

fn plan(check: Option<&HealthCheck>) -> Option<Plan> {
    let check = check?;
    let command = match check.test.split_first()? {
        (kind, rest) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
        (kind, rest) if kind == "CMD-SHELL" && !rest.is_empty() => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")]
        }
        _ => return None,
    };
    let or = |given: Duration, default| if given.is_zero() { default } else { given };
    Some(Plan {
        command,
        interval: or(check.interval, INTERVAL_DEFAULT),
        timeout: or(check.timeout, TIMEOUT_DEFAULT),
        retries: if check.retries == 0 {
            RETRIES_DEFAULT
        } else {
            check.retries
        },
        start_period: check.start_period,
        start_interval: or(check.start_interval, START_INTERVAL_DEFAULT),
    })
}

impl Plan {
    /// The wait before the next probe of a container that has run this long.
    fn wait(&self, runs: Duration, is_starting: bool) -> Duration {
        if is_starting && runs < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }
}

/// The check of a container: its own, completed by the image's.
pub(crate) fn in_effect(own: Option<&HealthCheck>, image: Option<&HealthCheck>) -> Option<HealthCheck> {
    let (own, image) = match (own, image) {
        (Some(own), Some(image)) => (own, image),
        (own, image) => return own.or(image).cloned(),
    };
    let or = |own: Duration, image: Duration| if own.is_zero() { image } else { own };
    Some(HealthCheck {
        test: if own.test.is_empty() {
            &image.test
        } else {
            &own.test
        }
        .clone(),
        interval: or(own.interval, image.interval),
        timeout: or(own.timeout, image.timeout),
        retries: if own.retries == 0 {
            image.retries
        } else {
            own.retries
        },
        start_period: or(own.start_period, image.start_period),
        start_interval: or(own.start_interval, image.start_interval),
    })
}

impl Inner {
    /// Probes the container in the background for as long as this run of it lasts.
    pub(crate) fn watch_health(self: &Arc<Self>, container: &Arc<Container>) {
        let Some(plan) = plan(container.with(|cell| cell.record.health.clone()).as_ref()) else {
            return;
        };
        container.with(|cell| {
            cell.health = Some(HealthState {
                status: "starting".to_owned(),
                ..HealthState::default()
            });
        });
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.spawn(async move {
            let mut watch = container.watch();
            let ends = watch.borrow().ends;
            tokio::select! {
                () = inner.probe_on(&container, &plan) => {}
                _ = watch.wait_for(|observed| observed.ends > ends) => {}
                () = inner.stopping.cancelled() => {}
            }
        });
    }

    async fn probe_on(self: &Arc<Self>, container: &Container, plan: &Plan) {
        // The container's start, also where this daemon began later.
        let started = container.with(|cell| cell.record.started_at);
        loop {
            tokio::time::sleep(plan.wait(clock::now().since(started), is_starting(container))).await;
            let Some(run) = container.run().filter(|_| container.phase() == Phase::Running) else {
                continue;
            };
            let start = clock::now();
            let (exit_code, output) = self.probe(&run, plan).await;
            let probe = HealthProbe {
                start,
                end: clock::now(),
                exit_code,
                output,
            };
            let excused = start.since(started) < plan.start_period;
            let changed = container.with(|cell| {
                let health = cell.health.get_or_insert_default();
                record(health, probe, plan.retries, excused).then(|| health.status.clone())
            });
            if let Some(status) = changed {
                self.container_event(container, &format!("health_status: {status}"), &[]);
            }
        }
    }
}

fn is_starting(container: &Container) -> bool {
    container.with(|cell| {
        cell.health
            .as_ref()
            .is_some_and(|health| health.status == "starting")
    })
}

/// Adds a probe; tells whether the status changed. Failures do not count while the start excuses them.
fn record(health: &mut HealthState, probe: HealthProbe, retries: u64, excused: bool) -> bool {
    let before = health.status.clone();
    if probe.exit_code == 0 {
        health.failing_streak = 0;
        health.status = "healthy".to_owned();
    } else if !(excused && before == "starting") {
        health.failing_streak += 1;
        if health.failing_streak >= retries {
            health.status = "unhealthy".to_owned();
        }
    }
    if health.log.len() == PROBES_MAX {
        health.log.remove(0);
    }
    health.log.push(probe);
    health.status != before
}

impl Inner {
    async fn probe(self: &Arc<Self>, run: &Run, plan: &Plan) -> (i32, String) {
        let mut session = match tokio::time::timeout(BEGIN_TIMEOUT, begin(run, plan)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return (CODE_FAILED, error.chain()),
            Err(_) => return (CODE_FAILED, "timed out starting health check".to_owned()),
        };
        let mut output = LimitedOutput::default();
        match tokio::time::timeout(plan.timeout, finish(&mut session, &mut output)).await {
            Ok(Ok(code)) => (code, output.text()),
            Ok(Err(error)) => (CODE_FAILED, error.chain()),
            Err(_) => {
                // Probes that hang must not pile up, so that the next one waits for this one's end.
                let _ = session.control.signal(signal::KILL).await;
                let _ = tokio::time::timeout(KILL_TIMEOUT, session.control.wait()).await;
                (CODE_FAILED, exceeded(plan.timeout, &output.text()))
            }
        }
    }
}

/// Docker's sentence for a probe that took too long.
fn exceeded(timeout: Duration, output: &str) -> String {
    let timeout = go_duration(timeout);
    if output.is_empty() {
        format!("Health check exceeded timeout ({timeout})")
    } else {
        format!("Health check exceeded timeout ({timeout}): {output}")
    }
}

/// A duration as Docker prints it: `500ms`, `1.5s`, `1m30s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        return format!("{}ms", seconds * 1000.0);
    }
    let minutes = duration.as_secs() / 60;
    let rest = format!("{}s", seconds - minutes as f64 * 60.0);
    match (minutes / 60, minutes % 60) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

/// The beginning of what a probe says.
#[derive(Debug, Default)]
struct LimitedOutput {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl LimitedOutput {
    fn add(&mut self, bytes: &[u8]) {
        let room = OUTPUT_BYTES_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_cut |= bytes.len() > room;
    }

    fn text(&self) -> String {
        let cut = if self.is_cut { "..." } else { "" };
        String::from_utf8_lossy(&self.bytes).into_owned() + cut
    }
}

async fn begin(run: &Run, plan: &Plan) -> Result<ExecSession> {
    let process = exec_process(&run.process, &plan.command, &[], "", false, None, None)?;
    let request = ExecRequest {
        process,
        terminal: false,
        console_size: None,
        stdin_open: false,
        output: true,
    };
    Ok(run.monitor.exec(request).await?)
}

async fn finish(session: &mut ExecSession, output: &mut LimitedOutput) -> Result<i32> {
    while let Some(Output::Stdout(bytes) | Output::Stderr(bytes) | Output::Console(bytes)) =
        session.stream.output.next().await?
    {
        output.add(&bytes);
    }
    Ok(session.control.wait().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::Timestamp;

    fn after(codes: &[i32], excused: bool) -> HealthState {
        let mut health = HealthState {
            status: "starting".into(),
            ..HealthState::default()
        };
        for code in codes {
            let probe = HealthProbe {
                start: Timestamp::ZERO,
                end: Timestamp::ZERO,
                exit_code: *code,
                output: String::new(),
            };
            record(&mut health, probe, 3, excused);
        }
        health
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy() {
        assert_eq!(after(&[1, 1], false).status, "starting");
        assert_eq!(after(&[1, 1, 1], false).status, "unhealthy");
        assert_eq!(after(&[1, 1, 0, 1, 1], false).status, "healthy");
        assert_eq!(after(&[1, 1, 1, 0], false).status, "healthy");
        let health = after(&[0; 9], false);
        assert_eq!(health.log.len(), PROBES_MAX);
    }

    #[test]
    fn the_start_excuses_failures() {
        let health = after(&[1; 9], true);
        assert_eq!((health.status.as_str(), health.failing_streak), ("starting", 0));
    }

    #[test]
    fn a_container_that_starts_is_probed_more_often() {
        let check = HealthCheck {
            test: vec!["CMD".into(), "true".into()],
            start_period: Duration::from_secs(10),
            start_interval: Duration::from_secs(1),
            ..HealthCheck::default()
        };
        let plan = plan(Some(&check)).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(plan.wait(seconds(9), true), seconds(1));
        assert_eq!(plan.wait(seconds(9), false), INTERVAL_DEFAULT);
        assert_eq!(plan.wait(seconds(10), true), INTERVAL_DEFAULT);
    }

    #[test]
    fn the_images_check_completes_the_containers() {
        let image = HealthCheck {
            test: vec!["CMD".into(), "true".into()],
            interval: Duration::from_secs(7),
            retries: 2,
            ..HealthCheck::default()
        };
        let own = HealthCheck {
            interval: Duration::from_secs(1),
            ..HealthCheck::default()
        };
        let both = in_effect(Some(&own), Some(&image)).unwrap();
        assert_eq!((both.test.as_slice(), both.retries), (&image.test[..], 2));
        assert_eq!(both.interval, Duration::from_secs(1));
        assert_eq!(in_effect(None, Some(&image)), Some(image));
        assert_eq!(in_effect(Some(&own), None), Some(own));
        assert_eq!(in_effect(None, None), None);
    }

    #[test]
    fn what_a_probe_says_is_cut_and_time_outs_are_told_as_docker_does() {
        let mut output = LimitedOutput::default();
        output.add(&[b'a'; OUTPUT_BYTES_MAX]);
        assert_eq!(output.text().len(), OUTPUT_BYTES_MAX);
        output.add(b"b");
        assert!(output.text().ends_with("a..."));
        let told = |millis| exceeded(Duration::from_millis(millis), "");
        assert_eq!(told(500), "Health check exceeded timeout (500ms)");
        assert_eq!(told(1500), "Health check exceeded timeout (1.5s)");
        assert_eq!(told(90_000), "Health check exceeded timeout (1m30s)");
        assert_eq!(told(3_600_000), "Health check exceeded timeout (1h0m0s)");
        assert!(exceeded(Duration::from_secs(1), "late").ends_with("(1s): late"));
    }

    #[test]
    fn checks_are_read() {
        let check = |test: &[&str]| HealthCheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            ..HealthCheck::default()
        };
        assert!(plan(Some(&check(&["NONE"]))).is_none());
        assert!(plan(Some(&check(&[]))).is_none());
        assert!(plan(None).is_none());
        let shell = plan(Some(&check(&["CMD-SHELL", "a && b"]))).unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "a && b"]);
        assert_eq!((shell.interval, shell.retries), (INTERVAL_DEFAULT, 3));
    }
}
