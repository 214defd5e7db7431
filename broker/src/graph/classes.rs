//! The classes that the calls of a segment use, each encoded once.

use std::collections::HashMap;
use std::sync::Arc;

use super::check::{CallError, check_class};
use crate::descriptor::encode_class;
use crate::task::TaskClass;

/// The classes of one segment.
#[derive(Debug, Default)]
pub(super) struct Classes {
    known: Vec<Known>,
    index: HashMap<Arc<TaskClass>, u32>,
    /// The one asked for last: the calls of a loop come one after the other.
    last: u32,
}

#[derive(Debug)]
struct Known {
    class: Arc<TaskClass>,
    encoded: Vec<u8>,
    /// The last chunk that a task of this class has been counted in.
    chunk: Option<usize>,
}

impl Classes {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &TaskClass> {
        self.known.iter().map(|known| &*known.class)
    }

    /// The index of `class`; a new one is checked and added.
    pub(super) fn intern(&mut self, class: &TaskClass) -> Result<u32, CallError> {
        let last = self.known.get(self.last as usize);
        if last.is_none_or(|known| *known.class != *class) {
            self.last = match self.index.get(class) {
                Some(&index) => index,
                None => self.add(class)?,
            };
        }
        Ok(self.last)
    }

    fn add(&mut self, class: &TaskClass) -> Result<u32, CallError> {
        check_class(class)?;
        let encoded = encode_class(class).map_err(|_| CallError::Class)?;
        let index = u32::try_from(self.known.len()).map_err(|_| CallError::Class)?;
        let class = Arc::new(class.clone());
        self.index.insert(Arc::clone(&class), index);
        self.known.push(Known { class, encoded, chunk: None });
        Ok(index)
    }

    /// The encoded class.
    pub(super) fn encoded(&self, index: u32) -> &[u8] {
        &self.known[index as usize].encoded
    }

    /// Its bytes.
    pub(super) fn bytes(&self, index: u32) -> usize {
        self.encoded(index).len()
    }

    /// Its priority.
    pub(super) fn priority(&self, index: u32) -> i8 {
        self.known[index as usize].class.options.priority
    }

    /// A task of the class comes into `chunk`: the bytes that the class adds there.
    pub(super) fn enter(&mut self, index: u32, chunk: usize) -> usize {
        let known = &mut self.known[index as usize];
        let before = known.chunk.replace(chunk);
        if before == Some(chunk) { 0 } else { known.encoded.len() }
    }
}
