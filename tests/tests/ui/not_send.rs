use std::rc::Rc;

use bolthole::task;

#[task]
async fn keeps(value: u8) -> u8 {
    let shared = Rc::new(value);
    std::future::ready(()).await;
    //~^ cannot be sent between threads safely
    *shared
}

fn main() {}
