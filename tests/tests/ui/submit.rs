use bolthole::task;

#[task]
fn one() -> u8 {
    1
}

fn main() {
    one::submit(&"a run");
    //~^ calls cannot be submitted to a `&str`
}
