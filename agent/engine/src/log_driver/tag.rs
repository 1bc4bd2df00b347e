//! The log option `tag`: a text with fields such as `{{.Name}}`, as in Docker's templates. Functions of templates are
//! refused.

use crate::error::{Error, Result};
use crate::record::Record;

/// Characters of a short id.
const SHORT: usize = 12;

/// A text with fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    FullId,
    Name,
    ImageName,
    ImageId,
    ImageFullId,
    Node,
}

impl Tag {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = || {
            Error::invalid(format!(
                "invalid log option tag={text}: use fields such as {{{{.Name}}}}"
            ))
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (field, behind) = after.split_once("}}").ok_or_else(refused)?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Field(Field::named(field.trim()).ok_or_else(refused)?));
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// The text for a container.
    pub fn of(&self, record: &Record, node: &str) -> String {
        let image = record
            .image_id
            .split_once(':')
            .map_or(record.image_id.as_str(), |(_, id)| id);
        let short = |id: &str| id.get(..SHORT).unwrap_or(id).to_owned();
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(Field::Id) => record.id.short().to_owned(),
            Part::Field(Field::FullId) => record.id.to_string(),
            Part::Field(Field::Name) => record.name.clone(),
            Part::Field(Field::ImageName) => record.config.image.clone(),
            Part::Field(Field::ImageId) => short(image),
            Part::Field(Field::ImageFullId) => record.image_id.clone(),
            Part::Field(Field::Node) => node.to_owned(),
        });
        parts.collect()
    }
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        match name {
            ".ID" => Some(Self::Id),
            ".FullID" | ".ContainerID" => Some(Self::FullId),
            ".Name" => Some(Self::Name),
            ".ImageName" | ".ContainerImageName" => Some(Self::ImageName),
            ".ImageID" => Some(Self::ImageId),
            ".ImageFullID" | ".ContainerImageID" => Some(Self::ImageFullId),
            ".Hostname" => Some(Self::Node),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_texts_with_fields() {
        let tag = Tag::parse("a/{{.Name}}/{{ .ID }}").unwrap();
        let text = |text: &str| Part::Text(text.to_owned());
        let expected = vec![
            text("a/"),
            Part::Field(Field::Name),
            text("/"),
            Part::Field(Field::Id),
            text(""),
        ];
        assert_eq!(tag, Tag(expected));
        assert_eq!(Tag::parse("plain").unwrap(), Tag(vec![text("plain")]));
        for bad in ["{{.Name", "{{.Nothing}}", "{{upper .Name}}"] {
            assert!(Tag::parse(bad).is_err(), "{bad}");
        }
    }
}
