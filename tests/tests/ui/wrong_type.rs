use bolthole::task;

#[task]
fn double(value: u64) -> u64 {
    2 * value
}

#[task]
fn shout(text: &str) -> String {
    text.to_uppercase()
}

#[task]
fn sum(values: &[u64]) -> u64 {
    values.iter().sum()
}

fn main() {
    let _ = double::delayed("two");
    //~^ `&str` is no argument for a parameter of type `u64`
    //~^^ expected `u64`, or a `Delayed` or `Handle` of it
    let _ = double::delayed(shout::delayed("a"));
    //~^ `Delayed<String>` is no argument for a parameter of type `u64`
    let _ = shout::delayed(double::delayed(1));
    //~^ `Delayed<u64>` is no argument for a parameter of type `String`
    let _ = sum::delayed(vec![shout::delayed("a")]);
    //~^ `Vec<Delayed<String>>` is no argument for a parameter of type `Vec<u64>`
    let _ = sum::delayed(double::delayed(1));
    //~^ `Delayed<u64>` is no argument for a parameter of type `Vec<u64>`
}
