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
use std::time::{Duration, Instant};

/// Docker's defaults.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const START_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
const RETRIES_DEFAULT: u64 = 3;
/// Probes remembered; Docker's number.
const PROBES_MAX: usize = 5;
/// Bytes of output remembered of a probe; Docker's number.
const OUTPUT_BYTES_MAX: usize = 4096;
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
        let began = Instant::now();
        loop {
            let starting = began.elapsed() < plan.start_period && !is_healthy(container);
            tokio::time::sleep(if starting {
                plan.start_interval
            } else {
                plan.interval
            })
            .await;
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
            let excused = began.elapsed() < plan.start_period;
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

fn is_healthy(container: &Container) -> bool {
    container.with(|cell| {
        cell.health
            .as_ref()
            .is_some_and(|health| health.status == "healthy")
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
        let session = match begin(run, plan).await {
            Ok(session) => session,
            Err(error) => return (CODE_FAILED, error.chain()),
        };
        let control = session.control.clone();
        match tokio::time::timeout(plan.timeout, finish(session)).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => (CODE_FAILED, error.chain()),
            Err(_) => {
                // It ends with the container at the latest.
                let _ = control.signal(signal::KILL).await;
                let seconds = plan.timeout.as_secs_f64();
                (CODE_FAILED, format!("Health check exceeded timeout ({seconds}s)"))
            }
        }
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

async fn finish(mut session: ExecSession) -> Result<(i32, String)> {
    let mut output = Vec::new();
    while let Some(Output::Stdout(bytes) | Output::Stderr(bytes) | Output::Console(bytes)) =
        session.stream.output.next().await?
    {
        let room = OUTPUT_BYTES_MAX.saturating_sub(output.len());
        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    let code = session.control.wait().await?;
    Ok((code, String::from_utf8_lossy(&output).into_owned()))
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
