//! `docker history`: how an image was made, newest step first.

use crate::error::Result;
use crate::image::unix_seconds;
use crate::records::Lookup;
use crate::store::ImageStore;

/// One step of an image's making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's id for its last step, `<missing>` for the others, as Docker prints.
    pub id: String,
    /// Seconds since 1970, 0 where unknown.
    pub created_unix_s: i64,
    /// The instruction.
    pub created_by: String,
    /// The image's tags, on its last step.
    pub tags: Vec<String>,
    /// Bytes of files that the step added.
    pub size_bytes: u64,
    /// What the builder noted.
    pub comment: String,
}

impl ImageStore {
    /// The steps of the image, newest first.
    pub fn history(&self, reference_or_id: &str) -> Result<Vec<HistoryEntry>> {
        let image = self.resolve(reference_or_id)?;
        let view = self.inner.records.view()?;
        let mut layers = crate::digest::Digest::chain_ids(&image.diff_ids).into_iter();
        let mut steps = Vec::new();
        for step in image.config.history().iter().flatten() {
            let layer = if step.empty_layer().unwrap_or(false) {
                None
            } else {
                layers.next()
            };
            let layer = layer.map_or(Ok(None), |chain_id| view.layer(&chain_id))?;
            steps.push(HistoryEntry {
                id: "<missing>".to_string(),
                created_unix_s: unix_seconds(step.created().as_deref()),
                created_by: step.created_by().clone().unwrap_or_default(),
                tags: Vec::new(),
                size_bytes: layer.map_or(0, |layer| layer.content_bytes),
                comment: step.comment().clone().unwrap_or_default(),
            });
        }
        steps.reverse();
        if let Some(last) = steps.first_mut() {
            last.id = image.id.to_string();
            last.tags = image.repo_tags;
        }
        Ok(steps)
    }
}
