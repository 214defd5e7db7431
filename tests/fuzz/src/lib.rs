//! What all targets share: an allocator that counts, and a limit on what an input may make its
//! reader allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bolthole_tests::fuzz::TARGETS;
pub use libfuzzer_sys::fuzz_target;

/// Bytes that are allocated now, and the most that were since [`measured`] began.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Notes that `bytes` more are allocated.
fn more(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: everything is left to the system's allocator; counting touches none of its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs the target of this name on an input.
///
/// # Panics
/// When it breaks a rule, or allocates more at any one time than its allowance.
pub fn measured(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    (target.run)(input);
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    let allowed = target.allowance(input.len());
    assert!(peak <= allowed, "{peak} bytes for an input of {}, {allowed} allowed", input.len());
}

/// A program that feeds a function of [`fuzz`].
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        $crate::fuzz_target!(|input: &[u8]| $crate::measured(stringify!($name), input));
    };
}
