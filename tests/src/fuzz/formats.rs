//! Messages and what is stored: what reads, writes back and reads again as the same.

use bolthole_broker::args::Arg;
use bolthole_broker::control::Control;
use bolthole_broker::descriptor::Chunk;
use bolthole_broker::error::TaskError;
use bolthole_broker::locator::{HeldRecord, Locator};
use bolthole_broker::parcel::Parcel;
use bolthole_broker::presence::Presence;
use bolthole_broker::store::WorkerRecord;
use bolthole_broker::wire::Reader;
use bytes::Bytes;

/// A message "these are ready".
pub fn parcel(input: &[u8]) {
    let Ok(parcel) = Parcel::decode(&Bytes::copy_from_slice(input)) else { return };
    for ready in &parcel.tasks {
        let described = parcel.describe(ready.task);
        assert!(described.is_none_or(|(_, task)| task.id == ready.task));
    }
    let written = parcel.encode().expect("what was read can be written");
    let again = Parcel::decode(&written).expect("what was written can be read");
    // Descriptors are a cache, which is left out when it does not fit.
    let expected = if again.chunks.is_empty() { &[][..] } else { &parcel.chunks[..] };
    assert_eq!((&again.tasks, &again.chunks[..]), (&parcel.tasks, expected));
}

/// Descriptors. The first byte of the input is the segment.
pub fn chunk(input: &[u8]) {
    let Some((segment, input)) = input.split_first() else { return };
    let segment = u32::from(*segment);
    let Ok(chunk) = Chunk::decode(&Bytes::copy_from_slice(input), segment) else { return };
    for task in &chunk.tasks {
        assert!(chunk.class(task).is_some());
        assert!(task.inputs.iter().all(|input| *input < task.id));
        assert!(task.successors.iter().all(|successor| task.id < *successor));
        let _ = chunk.task(task.id.index());
    }
    let written = Bytes::from(chunk.encode().expect("what was read can be written"));
    assert_eq!(Chunk::decode(&written, segment), Ok(chunk));
}

/// The tree of one argument. The first byte of the input is the number of inputs.
pub fn argument(input: &[u8]) {
    let Some((inputs, input)) = input.split_first() else { return };
    let (inputs, whole) = (u32::from(*inputs), Bytes::copy_from_slice(input));
    let Ok(argument) = Arg::take(&mut Reader::new(&whole), &whole, inputs) else { return };
    let mut written = Vec::new();
    argument.put(&mut written);
    let written = Bytes::from(written);
    assert_eq!(Arg::take(&mut Reader::new(&written), &written, inputs), Ok(argument));
}

/// What the store keeps of results, failures and workers. The first byte of the input says which.
pub fn records(input: &[u8]) {
    let Some((which, input)) = input.split_first() else { return };
    match which % 4 {
        0 => {
            let Ok(bytes) = input.try_into() else { return };
            let Ok(locator) = Locator::from_bytes(bytes) else { return };
            assert_eq!(Locator::from_bytes(locator.to_bytes()), Ok(locator));
        }
        1 => {
            let Ok(record) = HeldRecord::from_bytes(input) else { return };
            assert_eq!(HeldRecord::from_bytes(&record.to_bytes()), Ok(record));
            let _ = (record.blob(), Locator::apart(record.length));
        }
        2 => {
            let Some(error) = TaskError::decode(input) else { return };
            assert!(!error.to_string().is_empty());
            let again = TaskError::decode(&error.encode()).expect("what was written can be read");
            assert_eq!((again.kind, again.task), (error.kind, error.task));
        }
        _ => {
            let Ok(record) = WorkerRecord::decode(input) else { return };
            let written = record.encode().expect("what was read can be written");
            assert_eq!(WorkerRecord::decode(&written), Ok(record));
        }
    }
}

/// Hints to all workers, and a worker's last word. The first byte of the input says which.
pub fn control(input: &[u8]) {
    let Some((which, input)) = input.split_first() else { return };
    if which % 2 == 0 {
        let Ok(message) = Control::decode(input) else { return };
        assert_eq!(&message.encode()[..], input);
    } else {
        let Ok(presence) = Presence::decode(input) else { return };
        assert_eq!(Presence::decode(&presence.encode()), Ok(presence));
    }
}
