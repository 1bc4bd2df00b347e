//! Rules about the repository that a compiler cannot check; the house style says why each is there.

mod dependencies;
mod documents;
mod names;
mod purity;
mod sizes;
mod unsafety;
