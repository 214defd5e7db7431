//! The function under the attribute: what it takes and what it returns.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Error, FnArg, GenericArgument, Ident, ItemFn, Pat, Path, PathArguments, PathSegment, Result,
    ReturnType, Safety, Type, TypePath,
};

/// A parameter that is an argument of the call.
pub(crate) struct Argument {
    /// Its name at the call site.
    pub(crate) name: Ident,
    /// What travels: `String` for a `&str`.
    pub(crate) value: Type,
    /// Whether the function borrows it.
    pub(crate) borrowed: bool,
}

/// What the body hands to the function for one parameter.
pub(crate) enum Parameter {
    /// The argument of this number.
    Argument(usize),
    /// A `State`, borrowed or not.
    State { borrowed: bool },
    /// The `Ctx`, borrowed or not.
    Ctx { borrowed: bool },
}

/// What the function returns.
pub(crate) struct Returns {
    /// What the task's result is.
    pub(crate) value: Type,
    /// The error's type, where the text shows it.
    pub(crate) error: Option<Type>,
    /// What it does with the value.
    pub(crate) form: Form,
}

/// How the text of the return type reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `T`
    Value,
    /// `Result<T, E>`
    Fallible,
    /// `Delayed<T>`
    Forwarded,
    /// `Result<Delayed<T>, E>`
    FallibleForwarded,
}

/// Refuses what cannot be a task.
pub(crate) fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if let Some(generic) = signature.generics.params.first() {
        return Err(Error::new_spanned(
            generic,
            "a task cannot be generic: a worker finds one body under its name; write a function \
             for each type that calls the generic one",
        ));
    }
    if let Safety::Unsafe(unsafety) = &signature.safety {
        return Err(Error::new_spanned(unsafety, "a task cannot be unsafe to call"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(abi, "a task has Rust's own calling convention"));
    }
    Ok(())
}

/// The function's parameters, and those of them that are arguments.
pub(crate) fn parameters(function: &ItemFn) -> Result<(Vec<Parameter>, Vec<Argument>)> {
    let mut parameters = Vec::new();
    let mut arguments = Vec::new();
    for input in &function.sig.inputs {
        let typed = match input {
            FnArg::Receiver(receiver) => {
                return Err(Error::new_spanned(
                    receiver,
                    "a task has no `self`: write a free function that takes the value",
                ));
            }
            FnArg::Typed(typed) => typed,
        };
        let (borrowed, inner) = match &*typed.ty {
            Type::Reference(reference) => {
                if reference.mutability.is_some() {
                    return Err(Error::new_spanned(
                        &typed.ty,
                        "a task cannot change its arguments: other tasks may use them too; take \
                         `&T`, or take `T` and return the changed value",
                    ));
                }
                if let Some(lifetime) = &reference.lifetime {
                    return Err(Error::new_spanned(
                        lifetime,
                        "an argument is lent for one call only: write `&T` without a lifetime",
                    ));
                }
                (true, &*reference.elem)
            }
            owned => (false, owned),
        };
        match last_segment(inner) {
            Some(last) if last.ident == "State" && !last.arguments.is_empty() => {
                parameters.push(Parameter::State { borrowed });
            }
            Some(last) if last.ident == "Ctx" && last.arguments.is_empty() => {
                parameters.push(Parameter::Ctx { borrowed });
            }
            _ => {
                let value = travels(inner, borrowed)?;
                let name = name_of(&typed.pat, arguments.len());
                parameters.push(Parameter::Argument(arguments.len()));
                arguments.push(Argument { name, value, borrowed });
            }
        }
    }
    Ok((parameters, arguments))
}

/// The owned type that travels for a parameter.
fn travels(inner: &Type, borrowed: bool) -> Result<Type> {
    if let Type::ImplTrait(_) | Type::TraitObject(_) = inner {
        return Err(Error::new_spanned(
            inner,
            "an argument has one known type: a worker must decode it",
        ));
    }
    if let Some(inside) = borrow_inside(inner.to_token_stream()) {
        return Err(Error::new_spanned(
            inside,
            "only a whole parameter may be borrowed: `&T`, `&str`, `&[T]` or `&Path`",
        ));
    }
    let span = inner.span();
    let tokens = match inner {
        Type::Slice(slice) if borrowed => {
            let item = &slice.elem;
            quote_spanned!(span=> ::std::vec::Vec<#item>)
        }
        Type::Path(path) if borrowed && path.path.is_ident("str") => {
            quote_spanned!(span=> ::std::string::String)
        }
        Type::Path(_) if borrowed && last_segment(inner).is_some_and(|s| s.ident == "Path") => {
            quote_spanned!(span=> ::std::path::PathBuf)
        }
        other => return Ok(other.clone()),
    };
    syn::parse2(tokens)
}

/// The first `&` or lifetime inside a type.
fn borrow_inside(tokens: TokenStream) -> Option<TokenTree> {
    tokens.into_iter().find_map(|token| match &token {
        TokenTree::Punct(punct) if matches!(punct.as_char(), '&' | '\'') => Some(token),
        TokenTree::Group(group) => borrow_inside(group.stream()),
        _ => None,
    })
}

/// The parameter's own name, or one made from its place when it is a pattern.
fn name_of(pattern: &Pat, number: usize) -> Ident {
    match pattern {
        Pat::Ident(name) => name.ident.clone(),
        other => Ident::new(&format!("argument_{number}"), other.span()),
    }
}

/// What the function returns, read from the text of its return type.
pub(crate) fn returns(function: &ItemFn, root: &Path) -> Result<Returns> {
    let span = function.sig.fn_token.span();
    let whole = match &function.sig.output {
        ReturnType::Default => syn::parse2(quote_spanned!(span=> ()))?,
        ReturnType::Type(_, whole) => (**whole).clone(),
    };
    if let Type::ImplTrait(_) = whole {
        return Err(Error::new_spanned(whole, "a task's result has one known type"));
    }
    if let Some(inside) = borrow_inside(whole.to_token_stream()) {
        return Err(Error::new_spanned(inside, "a task's result owns its data"));
    }
    let last = last_segment(&whole);
    if let Some(value) = last.and_then(delayed_value) {
        return Ok(Returns { value, error: None, form: Form::Forwarded });
    }
    let Some(result) = last.filter(|last| last.ident == "Result") else {
        return Ok(Returns { value: whole, error: None, form: Form::Value });
    };
    let mut types = types_of(result);
    let value = match types.next() {
        Some(value) => value.clone(),
        // The types stand elsewhere, as in `fmt::Result`.
        None => syn::parse2(
            quote_spanned!(whole.span()=> <#whole as #root::__private::Fallible>::Value),
        )?,
    };
    let error = types.next().cloned();
    Ok(match last_segment(&value).and_then(delayed_value) {
        Some(value) => Returns { value, error, form: Form::FallibleForwarded },
        None => Returns { value, error, form: Form::Fallible },
    })
}

/// The `T` of a `Delayed<T>`.
fn delayed_value(last: &PathSegment) -> Option<Type> {
    if last.ident == "Delayed" { types_of(last).next().cloned() } else { None }
}

fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(TypePath { qself: None, path, .. }) => path.segments.last(),
        _ => None,
    }
}

fn types_of(segment: &PathSegment) -> impl Iterator<Item = &Type> {
    let arguments = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}
