//! `docker image rm`: taking names away and deleting images, with Docker's rules and words for conflicts.

use crate::digest::ImageId;
use crate::error::{Error, Result};
use crate::records::{Changes, ImageRecord, Lookup, Persist};
use crate::reference::Reference;
use crate::store::{ImageStore, find, is_id_of};

/// Whether a container that uses an image runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserState {
    /// Running or paused: its image cannot be deleted.
    Running,
    /// Its image can be deleted by force; the container keeps its layers.
    Stopped,
}

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container.
    pub container_id: String,
    /// The image it was made from.
    pub image_id: ImageId,
    /// Whether it runs.
    pub state: UserState,
}

/// How to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Also when stopped containers use the image or several repositories name it.
    pub force: bool,
}

/// One line of what a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovedEvent {
    /// A name was taken away.
    Untagged(String),
    /// An image or layer was deleted, by id.
    Deleted(String),
}

/// The names of the image, parsed.
struct Names(Vec<Reference>);

impl Names {
    fn of(changes: &Changes, id: &ImageId) -> Result<Names> {
        let all = changes.references()?.into_iter().filter(|(_, image)| image == id);
        Ok(Names(
            all.filter_map(|(reference, _)| Reference::parse(&reference).ok())
                .collect(),
        ))
    }

    /// At most one tag, and digests of that repository only.
    fn is_single(&self) -> bool {
        let mut tags = self.0.iter().filter(|name| name.digest().is_none());
        let tag = tags.next().or(self.0.first());
        let one_repository = tag.is_none_or(|tag| self.0.iter().all(|name| name.name() == tag.name()));
        tags.next().is_none() && one_repository
    }
}

impl ImageStore {
    /// Takes a name from an image, and deletes the image with its last name; an id deletes it outright. `users` are
    /// the containers that use any image.
    pub fn remove(
        &self,
        reference_or_id: &str,
        options: RemoveOptions,
        users: &[ImageUser],
    ) -> Result<Vec<RemovedEvent>> {
        let mut events = Vec::new();
        let deleted = self.inner.records.change(Persist::Now, |changes| {
            let image = find(changes, reference_or_id)?;
            let mut removal = Removal {
                changes,
                image: &image,
                options,
                users,
                events: &mut events,
            };
            match is_id_of(&image.id, reference_or_id) {
                true => removal.by_id(),
                false => removal.by_name(reference_or_id),
            }
        })?;
        if deleted {
            let collected = self.collect_garbage()?;
            events.extend(
                collected
                    .layers
                    .iter()
                    .rev()
                    .map(|id| RemovedEvent::Deleted(id.to_string())),
            );
        }
        Ok(events)
    }
}

struct Removal<'a> {
    changes: &'a Changes,
    image: &'a ImageRecord,
    options: RemoveOptions,
    users: &'a [ImageUser],
    events: &'a mut Vec<RemovedEvent>,
}

/// Whether a deletion may fail quietly because a name was removed already.
#[derive(PartialEq)]
enum OnConflict {
    Report,
    KeepImage,
}

impl Removal<'_> {
    /// Returns whether the image was deleted.
    fn by_name(&mut self, text: &str) -> Result<bool> {
        let given = Reference::parse(text)?.with_default_tag();
        let names = Names::of(self.changes, &self.image.id)?;
        if let Some(user) = self
            .user(None)
            .filter(|_| !self.options.force && names.is_single())
        {
            return Err(Error::ReferenceInUse {
                reference: text.to_string(),
                container: user.container_id.chars().take(12).collect(),
                image: self.image.id.short(),
            });
        }
        self.untag_given(&given, names)?;
        let left = Names::of(self.changes, &self.image.id)?.0;
        let same_repository = |name: &&Reference| name.name() == given.name();
        let tag_left = left
            .iter()
            .any(|name| name.digest().is_none() && name.name() == given.name());
        if given.digest().is_none() && !tag_left {
            // Digests of a repository without a tag would keep the image without a name that users know.
            left.iter()
                .filter(same_repository)
                .try_for_each(|name| self.untag(name))?;
        }
        if !Names::of(self.changes, &self.image.id)?.0.is_empty() {
            return Ok(false);
        }
        self.delete(OnConflict::KeepImage)
    }

    /// A digest that was never recorded stands for the repository's tags of this image.
    fn untag_given(&mut self, given: &Reference, names: Names) -> Result<()> {
        let exact = match given.digest() {
            None => given.clone(),
            Some(digest) => given.at_digest(digest),
        };
        if names.0.contains(&exact) {
            return self.untag(&exact);
        }
        let of_repository: Vec<&Reference> = names
            .0
            .iter()
            .filter(|name| name.name() == given.name())
            .collect();
        if of_repository.is_empty() {
            return Err(Error::NoSuchImage {
                reference: given.familiar(),
            });
        }
        of_repository.into_iter().try_for_each(|name| self.untag(name))
    }

    fn by_id(&mut self) -> Result<bool> {
        let names = Names::of(self.changes, &self.image.id)?;
        if names.is_single() {
            self.check_users()?;
        } else if !self.options.force {
            return Err(self.conflict(
                "must be forced",
                "image is referenced in multiple repositories".to_string(),
            ));
        }
        self.delete(OnConflict::Report)
    }

    fn delete(&mut self, on_conflict: OnConflict) -> Result<bool> {
        match self.check_users() {
            Err(_) if on_conflict == OnConflict::KeepImage => return Ok(false),
            checked => checked?,
        }
        for name in Names::of(self.changes, &self.image.id)?.0 {
            self.untag(&name)?;
        }
        self.changes.remove_image(&self.image.id)?;
        self.events.push(RemovedEvent::Deleted(self.image.id.to_string()));
        Ok(true)
    }

    fn untag(&mut self, name: &Reference) -> Result<()> {
        self.changes.remove_reference(&name.to_string())?;
        self.events.push(RemovedEvent::Untagged(name.familiar()));
        Ok(())
    }

    fn check_users(&self) -> Result<()> {
        let short = |user: &ImageUser| user.container_id.chars().take(12).collect::<String>();
        if let Some(user) = self.user(Some(UserState::Running)) {
            let reason = format!("image is being used by running container {}", short(user));
            return Err(self.conflict("cannot be forced", reason));
        }
        match self.user(Some(UserState::Stopped)) {
            Some(user) if !self.options.force => {
                let reason = format!("image is being used by stopped container {}", short(user));
                Err(self.conflict("must be forced", reason))
            }
            _ => Ok(()),
        }
    }

    fn conflict(&self, remedy: &'static str, reason: String) -> Error {
        Error::ImageInUse {
            image: self.image.id.short(),
            remedy,
            reason,
        }
    }

    fn user(&self, state: Option<UserState>) -> Option<&ImageUser> {
        let fits =
            |user: &&ImageUser| user.image_id == self.image.id && state.is_none_or(|s| s == user.state);
        self.users.iter().find(fits)
    }
}
