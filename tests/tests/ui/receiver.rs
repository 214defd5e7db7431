use bolthole::task;

trait Counts {
    #[task]
    fn count(&self) -> u64 {
        //~^ a task has no `self`
        0
    }
}

fn main() {}
