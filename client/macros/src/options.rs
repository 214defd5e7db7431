//! The arguments of the attribute.

use std::collections::HashSet;
use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, Ident, LitInt, LitStr, Meta, Path, Result, Token};

/// Bytes of a task's name: it is a metric label and part of every descriptor.
const NAME_BYTES_MAX: usize = 128;

const KNOWN: &str = "pure, effect, retries, backoff, timeout, isolated, queue, priority, \
                     resources, concurrency, not_before, expires, name and crate";

/// What the attribute says.
pub(crate) struct Options {
    /// Where the crate `bolthole` is found.
    pub(crate) root: Path,
    /// In place of `module::path::function`.
    pub(crate) name: Option<LitStr>,
    /// A variant of `TaskKind`.
    pub(crate) kind: Ident,
    /// Fields of `TaskOptions` and their values.
    pub(crate) fields: Vec<(Ident, TokenStream)>,
    not_before: Option<Duration>,
    expires: Option<Duration>,
}

/// Reads the attribute's arguments; all mistakes are reported together.
pub(crate) fn parse(attribute: TokenStream) -> Result<Options> {
    let metas = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(attribute)?;
    let mut options = Options {
        root: syn::parse_quote!(::bolthole),
        name: None,
        kind: Ident::new("Repeatable", Span::call_site()),
        fields: Vec::new(),
        not_before: None,
        expires: None,
    };
    // The crate is needed to write the value of any other option.
    let (root, others): (Vec<_>, Vec<_>) =
        metas.iter().partition(|meta| meta.path().is_ident("crate"));
    let mut seen = HashSet::new();
    let mut errors: Option<Error> = None;
    for meta in root.into_iter().chain(others) {
        let name = meta.path().to_token_stream().to_string();
        // All of these say what kind of task it is.
        let slot = if matches!(&*name, "pure" | "effect") { "kind".to_owned() } else { name };
        let read = if seen.insert(slot.clone()) {
            options.read(meta)
        } else {
            Err(Error::new(meta.span(), format!("`{slot}` is given twice")))
        };
        if let Err(error) = read {
            match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            }
        }
    }
    errors.map_or(Ok(options), Err)
}

impl Options {
    fn read(&mut self, meta: &Meta) -> Result<()> {
        let span = meta.path().span();
        let name = meta.path().get_ident().map(Ident::to_string).unwrap_or_default();
        let root = self.root.clone();
        match name.as_str() {
            "pure" | "effect" => {
                meta.require_path_only()?;
                self.kind = kind(&name, span)?;
            }
            "kind" => {
                let value = string(meta)?;
                self.kind = kind(&value.value(), value.span())?;
            }
            "crate" => self.root = string(meta)?.parse()?,
            "name" => self.name = Some(task_name(meta)?),
            "retries" => {
                let retries = integer::<u32>(meta)?;
                self.set("retries", quote!(#retries));
            }
            "priority" => {
                let priority = integer::<i8>(meta)?;
                self.set("priority", quote!(#priority));
            }
            "concurrency" => {
                let most = at_least_one(meta)?;
                self.set("concurrency", quote!(::core::option::Option::Some(#most)));
            }
            "queue" => {
                let queue = nonempty(meta)?;
                self.set("queue", quote!(::std::string::String::from(#queue)));
            }
            "timeout" => {
                let timeout = seconds(duration(&string(meta)?)?);
                self.set("timeout", quote!(::core::option::Option::Some(#timeout)));
            }
            "isolated" => {
                meta.require_path_only()?;
                self.set("isolated", quote!(true));
            }
            "not_before" => {
                let after = duration(&string(meta)?)?;
                self.not_before = Some(after);
                self.set("not_before_ms", from_now(&root, after));
            }
            "expires" => {
                let after = duration(&string(meta)?)?;
                self.expires = Some(after);
                self.set("expires_ms", from_now(&root, after));
            }
            "backoff" => {
                let (first, max) = backoff(meta)?;
                let (first, max) = (seconds(first), seconds(max));
                self.set("backoff", quote!(#root::__private::Backoff { first: #first, max: #max }));
            }
            "resources" => {
                let resources = resources(meta)?;
                self.set("resources", resources);
            }
            _ => {
                return Err(Error::new(
                    span,
                    format!("unknown option; a task has the options {KNOWN}"),
                ));
            }
        }
        match (self.not_before, self.expires) {
            (Some(start), Some(end)) if start >= end => {
                Err(Error::new(meta.span(), "the task would expire before it may start"))
            }
            _ => Ok(()),
        }
    }

    fn set(&mut self, field: &str, value: TokenStream) {
        self.fields.push((Ident::new(field, Span::call_site()), value));
    }
}

fn kind(name: &str, span: Span) -> Result<Ident> {
    let variant = match name {
        "repeatable" => "Repeatable",
        "pure" => "Pure",
        "effect" => "Effect",
        _ => return Err(Error::new(span, "a task's kind is `repeatable`, `pure` or `effect`")),
    };
    Ok(Ident::new(variant, span))
}

fn string(meta: &Meta) -> Result<LitStr> {
    let value = meta.require_name_value()?.value.to_token_stream();
    syn::parse2(value.clone())
        .map_err(|_| Error::new_spanned(value, "expected a string, such as \"..\""))
}

fn nonempty(meta: &Meta) -> Result<LitStr> {
    let value = string(meta)?;
    let text = value.value();
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let message = format!("expected 1 to {NAME_BYTES_MAX} bytes without control characters");
        return Err(Error::new(value.span(), message));
    }
    Ok(value)
}

fn task_name(meta: &Meta) -> Result<LitStr> {
    let value = nonempty(meta)?;
    if value.value().starts_with("bolthole::") {
        return Err(Error::new(value.span(), "names that start with `bolthole::` are its own"));
    }
    Ok(value)
}

fn at_least_one(meta: &Meta) -> Result<u32> {
    match integer::<u32>(meta)? {
        0 => Err(Error::new(meta.span(), "no call could ever run")),
        most => Ok(most),
    }
}

fn integer<N: std::str::FromStr<Err: std::fmt::Display>>(meta: &Meta) -> Result<N> {
    let value = &meta.require_name_value()?.value;
    let literal = syn::parse2::<LitInt>(value.to_token_stream());
    literal.and_then(|literal| literal.base10_parse()).map_err(|_| {
        let type_name = std::any::type_name::<N>();
        Error::new_spanned(value, format!("expected an integer of type `{type_name}`"))
    })
}

fn duration(text: &LitStr) -> Result<Duration> {
    parse_duration(&text.value(), text.span())
}

fn parse_duration(text: &str, span: Span) -> Result<Duration> {
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(Error::new(span, "expected a duration above zero, such as \"90s\" or \"1h 30m\"")),
    }
}

/// `"1s..2m"` or `("1s", "2m")`.
fn backoff(meta: &Meta) -> Result<(Duration, Duration)> {
    let value = &meta.require_name_value()?.value;
    let (first, max) = match value {
        Expr::Tuple(pair) if pair.elems.len() == 2 => {
            let first = syn::parse2::<LitStr>(pair.elems[0].to_token_stream())?;
            let max = syn::parse2::<LitStr>(pair.elems[1].to_token_stream())?;
            (duration(&first)?, duration(&max)?)
        }
        _ => {
            let text = string(meta)?;
            let whole = text.value();
            let (first, max) = whole.split_once("..").ok_or_else(|| {
                Error::new(text.span(), "expected the first and the longest wait: \"1s..2m\"")
            })?;
            (parse_duration(first, text.span())?, parse_duration(max, text.span())?)
        }
    };
    if first > max {
        return Err(Error::new_spanned(value, "the first wait is longer than the longest"));
    }
    Ok((first, max))
}

fn resources(meta: &Meta) -> Result<TokenStream> {
    let list = meta.require_list()?;
    let amounts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)?;
    let mut pairs = Vec::new();
    for amount in &amounts {
        let name = amount.path().require_ident()?.to_string();
        let amount = integer::<u32>(amount)?;
        pairs.push(quote!((::std::string::String::from(#name), #amount)));
    }
    Ok(quote!(::core::convert::From::from([#(#pairs),*])))
}

fn seconds(duration: Duration) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}

fn from_now(root: &Path, after: Duration) -> TokenStream {
    let after = seconds(after);
    quote!(::core::option::Option::Some(#root::__private::from_now(#after)))
}
