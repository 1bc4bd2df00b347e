//! Has rotated files of containers' logs compressed, where containers ask for it.
//!
//! The monitor knows files only, so that it stays small; the engine looks at what it rotated from time to time. One file is
//! compressed at once: containers need the processors, too.

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::logs::{self, Packed};
use std::sync::Arc;
use std::time::Duration;

/// How often a log is looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Wait after a failure: mostly the disk is full, and compressing again and again would only cost.
const RETRY_WAIT: Duration = Duration::from_secs(60);

impl Inner {
    /// Compresses what is rotated of a container's log, in the background, until it has ended.
    pub(crate) fn pack_log(self: &Arc<Self>, container: &Arc<Container>) {
        let settings = self.log_settings(&container.record()).ok().flatten();
        let Some(settings) = settings.filter(|settings| settings.compress) else {
            return;
        };
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks.spawn(async move {
            loop {
                // Looked at before the pass: what is rotated at the end is found after it.
                let live = container.phase().is_live();
                let wait = match inner.pack_rotated(&container, settings.max_files).await {
                    Ok(()) => LOOK_PERIOD,
                    Err(Error::ShuttingDown) => return,
                    Err(error) => {
                        tracing::warn!(
                            container = container.id.short(),
                            error = error.chain(),
                            "its rotated log files stay uncompressed for now"
                        );
                        RETRY_WAIT
                    }
                };
                if !live {
                    return;
                }
                let mut watch = container.watch();
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = watch.wait_for(|observed| !observed.phase.is_live()) => {}
                    () = inner.stopping.cancelled() => return,
                }
            }
        });
    }

    async fn pack_rotated(self: &Arc<Self>, container: &Container, max_files: u32) -> Result<()> {
        loop {
            let path = self.layout.log(&container.id);
            let Ok(_permit) = self.packing.acquire().await else {
                return Err(Error::ShuttingDown);
            };
            let packed = self.blocking(move |inner| {
                logs::pack_oldest(&path, max_files, || inner.stopping.is_cancelled())
                    .map_err(|error| Error::io("compress a rotated log file", error))
            });
            match packed.await? {
                Packed::One => {}
                Packed::All | Packed::Later => return Ok(()),
            }
        }
    }
}
