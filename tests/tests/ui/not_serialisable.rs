use std::fs::File;
use std::rc::Rc;

use bolthole::task;

struct Table;

#[task]
fn count(table: Table) -> u64 {
    //~^ `Table` cannot be a parameter of a task
    //~^^ arguments travel encoded: derive `serde::Serialize` and `serde::Deserialize` for `Table`
    drop(table);
    0
}

#[task]
fn size(file: &File) -> u64 {
    //~^ `File` cannot be a parameter of a task
    //~^^ such as a connection, is a `State<File>`
    let _ = file;
    0
}

#[task]
fn open() -> File {
    //~^ `File` cannot be the result of a task
    unreachable!()
}

#[task]
fn try_open() -> Result<Rc<u8>, String> {
    //~^ `Rc<u8>` cannot be the result of a task
    Err(String::new())
}

struct NoError;

#[task]
fn fails() -> Result<u8, NoError> {
    //~^ `NoError` cannot be the error of a task
    Err(NoError)
}

fn main() {
    let _ = count::delayed(Table);
    //~^ `Table` is no argument for a parameter of type `Table`
    //~^^ when it implements `serde::Serialize`
}
