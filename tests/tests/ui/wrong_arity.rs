use bolthole::task;

#[task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

fn main() {
    let _ = add::delayed(1);
    //~^ takes 2 arguments but 1 argument was supplied
    let _ = add::delayed(1, 2, 3);
    //~^ takes 2 arguments but 3 arguments were supplied
    let _ = add::map([1, 2]);
    //~^ expected `(_, _)`
}
