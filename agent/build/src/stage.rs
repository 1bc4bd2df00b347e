//! A whole Dockerfile, and which of its stages a build needs.

use crate::error::{Error, Result};
use crate::expand::{Expansion, Work};
use crate::instruction::{Instruction, arguments};
use crate::mount::MountKind;
use crate::pairs::{flags, needed};
use crate::scope::{BuildArgs, Scope};
use crate::statement::{Statement, read};
use std::collections::BTreeSet;

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    /// The character that escapes.
    pub escape: char,
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<Step>,
    /// Its stages; at least one.
    pub stages: Vec<Stage>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// `FROM` as it was written.
    pub text: String,
    /// Its line.
    pub line: usize,
    /// What it begins with, as it was written.
    pub base: String,
    /// `--platform`, as it was written.
    pub platform: Option<String>,
    /// Its name, lower case.
    pub name: Option<String>,
    /// What it does.
    pub steps: Vec<Step>,
}

/// An instruction where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// As it was written.
    pub text: String,
    /// Its line.
    pub line: usize,
    /// What it says.
    pub instruction: Instruction,
}

impl Dockerfile {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self> {
        let statements = read(text)?;
        let escape = statements.escape;
        let mut dockerfile = Self {
            escape,
            arguments: Vec::new(),
            stages: Vec::new(),
        };
        for statement in &statements.list {
            let (name, rest) = statement
                .text
                .split_once(char::is_whitespace)
                .unwrap_or((&statement.text, ""));
            let at = |error: Error| error.at(statement.line);
            if name.eq_ignore_ascii_case("FROM") {
                dockerfile.stages.push(stage(statement, rest).map_err(at)?);
                continue;
            }
            match dockerfile.stages.last_mut() {
                Some(stage) => stage
                    .steps
                    .push(step(statement, Instruction::of(statement, escape)?)),
                None if name.eq_ignore_ascii_case("ARG") && !rest.trim().is_empty() => {
                    let found = arguments(rest, escape).map_err(at)?;
                    dockerfile
                        .arguments
                        .push(step(statement, Instruction::Arg(found)));
                }
                None => {
                    // An unknown instruction is the worse mistake.
                    Instruction::of(statement, escape)?;
                    return Err(at(Error::new("no build stage in current context")));
                }
            }
        }
        match dockerfile.stages.is_empty() {
            true => Err(Error::new("no build stage in current context")),
            false => Ok(dockerfile),
        }
    }

    /// Every name that an `ARG` of it declares.
    pub fn declared(&self) -> Vec<String> {
        let steps = self.stages.iter().flat_map(|stage| &stage.steps);
        let args = self
            .arguments
            .iter()
            .chain(steps)
            .filter_map(|step| match &step.instruction {
                Instruction::Arg(args) => Some(args),
                _ => None,
            });
        args.flatten().map(|(name, _)| name.clone()).collect()
    }

    /// The earlier stage that a name or number means in stage `before`; `None` where it means an image.
    pub fn stage_of(&self, reference: &str, before: usize) -> Result<Option<usize>> {
        let lower = reference.to_ascii_lowercase();
        let earlier = &self.stages[..before.min(self.stages.len())];
        if let Some(index) = earlier
            .iter()
            .rposition(|stage| stage.name.as_ref() == Some(&lower))
        {
            return Ok(Some(index));
        }
        match reference.parse::<usize>() {
            Ok(index) if index < before => Ok(Some(index)),
            Ok(index) => Err(Error::new(format!(
                "invalid from flag value {index}: it must name an earlier stage"
            ))),
            Err(_) => Ok(None),
        }
    }
}

fn step(statement: &Statement, instruction: Instruction) -> Step {
    Step {
        text: statement.text.clone(),
        line: statement.line,
        instruction,
    }
}

fn stage(statement: &Statement, rest: &str) -> Result<Stage> {
    let (given, rest) = flags(rest)?;
    let mut platform = None;
    for (flag, value) in given {
        match flag.as_str() {
            "platform" => platform = Some(needed(&flag, value)?),
            _ => return Err(Error::new(format!("Unknown flag: {flag}"))),
        }
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (base, name) = match words.as_slice() {
        [base] => (*base, None),
        [base, word, name] if word.eq_ignore_ascii_case("AS") => (*base, Some(stage_name(name)?)),
        _ => return Err(Error::new("FROM requires either one or three arguments")),
    };
    Ok(Stage {
        text: statement.text.clone(),
        line: statement.line,
        base: base.to_owned(),
        platform,
        name,
        steps: Vec::new(),
    })
}

fn stage_name(name: &str) -> Result<String> {
    let name = name.to_ascii_lowercase();
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    match name.as_bytes()[0].is_ascii_lowercase() && name.bytes().all(letter) {
        true => Ok(name),
        false => Err(Error::new(format!(
            "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
        ))),
    }
}

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(String),
}

/// What a build does with a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What each stage begins with.
    pub bases: Vec<Base>,
    /// The platform that each stage asks for.
    pub platforms: Vec<Option<String>>,
    /// The earlier stages that each stage needs.
    pub needs: Vec<BTreeSet<usize>>,
    /// The stages that are built, in their order; the last one is the image.
    pub built: Vec<usize>,
    /// The arguments before the first `FROM`.
    pub global: Scope,
}

impl Plan {
    /// Plans a build of the stage with this name or number, the last one where there is none.
    pub fn of(dockerfile: &Dockerfile, build: &BuildArgs, target: Option<&str>) -> Result<Self> {
        let mut global = Scope::default();
        let work = &Work::new();
        for step in &dockerfile.arguments {
            let lookup = |name: &str| global.global_value(build, name);
            let expansion = Expansion {
                escape: dockerfile.escape,
                lookup: &lookup,
                work,
            };
            let expanded = step.instruction.clone().expanded_by(&expansion);
            if let Instruction::Arg(args) = expanded.map_err(|error| error.at(step.line))? {
                for (name, default) in args {
                    global.declare_global(build, &name, default);
                }
            }
        }
        let mut plan = Self {
            bases: Vec::new(),
            platforms: Vec::new(),
            needs: Vec::new(),
            built: Vec::new(),
            global,
        };
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            plan.add(dockerfile, build, index, work)
                .map_err(|error| error.at(stage.line))?;
        }
        let last = match target.filter(|target| !target.is_empty()) {
            None => dockerfile.stages.len() - 1,
            Some(target) => named(dockerfile, target)?,
        };
        let mut wanted = BTreeSet::from([last]);
        // Needs lead to earlier stages only.
        for index in (0..=last).rev() {
            if wanted.contains(&index) {
                wanted.extend(plan.needs[index].iter().copied());
            }
        }
        plan.built = wanted.into_iter().collect();
        Ok(plan)
    }

    fn add(&mut self, dockerfile: &Dockerfile, build: &BuildArgs, index: usize, work: &Work) -> Result<()> {
        let stage = &dockerfile.stages[index];
        let lookup = |name: &str| self.global.global_value(build, name);
        let expansion = Expansion {
            escape: dockerfile.escape,
            lookup: &lookup,
            work,
        };
        let word = |text: &str| expansion.word(text);
        let base = word(&stage.base)?;
        let platform = stage.platform.as_deref().map(word).transpose()?;
        if base.trim().is_empty() {
            return Err(Error::new(format!(
                "base name ({}) should not be blank",
                stage.base
            )));
        }
        let lower = base.to_ascii_lowercase();
        let earlier = dockerfile.stages[..index]
            .iter()
            .rposition(|stage| stage.name.as_ref() == Some(&lower));
        let base = match earlier {
            Some(earlier) => Base::Stage(earlier),
            None if base == "scratch" => Base::Scratch,
            None => Base::Image(base),
        };
        let mut needs = BTreeSet::new();
        if let Base::Stage(earlier) = base {
            needs.insert(earlier);
        }
        for step in &stage.steps {
            for reference in references(&step.instruction) {
                let found = dockerfile.stage_of(reference, index);
                needs.extend(found.map_err(|error| error.at(step.line))?);
            }
        }
        self.bases.push(base);
        self.platforms.push(platform);
        self.needs.push(needs);
        Ok(())
    }
}

/// The stages or images that an instruction takes files from.
fn references(instruction: &Instruction) -> Vec<&str> {
    match instruction {
        Instruction::Transfer(transfer) => transfer.from.as_deref().into_iter().collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, .. } => from.as_deref(),
                MountKind::Cache { .. } | MountKind::Tmpfs { .. } => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn named(dockerfile: &Dockerfile, target: &str) -> Result<usize> {
    let lower = target.to_ascii_lowercase();
    let by_name = dockerfile
        .stages
        .iter()
        .rposition(|stage| stage.name.as_ref() == Some(&lower));
    let by_number = || {
        target
            .parse()
            .ok()
            .filter(|index| *index < dockerfile.stages.len())
    };
    by_name
        .or_else(by_number)
        .ok_or_else(|| Error::new(format!("target stage {target:?} could not be found")))
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
