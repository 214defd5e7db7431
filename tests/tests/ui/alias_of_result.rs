use bolthole::{Delayed, task};

type Checked<T> = Result<T, String>;
type Later = Delayed<u8>;

#[task]
fn load(path: String) -> Checked<u64> {
    //~^ a task's return type must show what it is
    //~^^ an alias: `#[task]` reads the text of the return type
    path.parse().map_err(|_| path)
}

#[task]
fn later() -> Later {
    //~^ a task's return type must show what it is
    one::delayed()
}

#[task]
fn one() -> u8 {
    1
}

fn main() {}
