use bolthole::task;

#[task]
fn push(values: &mut Vec<u8>) {
    //~^ a task cannot change its arguments
    values.push(1);
}

fn main() {}
