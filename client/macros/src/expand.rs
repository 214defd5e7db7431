//! The code that stands beside the function.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Error, Item, ItemFn, Result};

use crate::function::{self, Argument, Form, Parameter, Returns};
use crate::options::{self, Options};
use crate::signature;

/// One task, read and understood.
struct Task<'a> {
    function: &'a ItemFn,
    options: Options,
    parameters: Vec<Parameter>,
    arguments: Vec<Argument>,
    returns: Returns,
}

/// The function as it was, and the struct, the body and the registration beside it.
pub(crate) fn task(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item.clone()).map_err(|error| {
        let other = syn::parse2::<Item>(item);
        other.map_or(error, |other| Error::new_spanned(other, "a task is a function with a body"))
    })?;
    function::check(&function)?;
    let options = options::parse(attribute)?;
    let (parameters, arguments) = function::parameters(&function)?;
    let returns = function::returns(&function, &options.root)?;
    let task = Task { function: &function, options, parameters, arguments, returns };

    let (outer, calls, entry) = (task.outer(), task.calls(), task.entry());
    let (name, root, cfg) = (&function.sig.ident, &task.options.root, task.attributes("cfg"));
    Ok(quote! {
        #function

        #outer

        #(#cfg)*
        #[allow(dead_code, clippy::all, clippy::pedantic, reason = "a task may be run by name only")]
        impl #name {
            #calls
            #entry
        }

        #(#cfg)*
        #root::__private::inventory::submit! { #name::__TASK }
    })
}

impl Task<'_> {
    fn attributes(&self, name: &str) -> Vec<&Attribute> {
        self.function.attrs.iter().filter(|attribute| attribute.path().is_ident(name)).collect()
    }

    /// The struct that stands for the task among the types.
    fn outer(&self) -> TokenStream {
        let (visibility, name) = (&self.function.vis, &self.function.sig.ident);
        let (cfg, doc) = (self.attributes("cfg"), self.attributes("doc"));
        let deprecated = self.attributes("deprecated");
        let heading = format!("The task `{name}`: `{name}::delayed(..)` is a call of it.");
        quote! {
            #(#cfg)*
            #[doc = #heading]
            #[doc = ""]
            #(#doc)*
            #(#deprecated)*
            #[allow(non_camel_case_types, dead_code, reason = "named after its function")]
            #[allow(missing_debug_implementations, reason = "there are no values of it")]
            #visibility struct #name { _private: () }
        }
    }

    /// `delayed`, `submit` and `map`.
    fn calls(&self) -> TokenStream {
        let (root, visibility) = (&self.options.root, &self.function.vis);
        let value = &self.returns.value;
        let names: Vec<_> = self.arguments.iter().map(|argument| &argument.name).collect();
        let types: Vec<_> = self.arguments.iter().map(|argument| &argument.value).collect();
        let count = names.len();
        let kinds: Vec<_> = (0..count).map(|number| format_ident!("__{number}")).collect();
        // One argument is mapped as it is, several as a tuple.
        let items = if count == 1 { quote!(#(#kinds)*) } else { quote!((#(#kinds),*)) };
        let item = if count == 1 { quote!(#(#names)*) } else { quote!((#(#names),*)) };
        quote! {
            /// A call that runs when a graph with it is submitted.
            #[must_use]
            #visibility fn delayed(#(#names: impl #root::IntoArg<#types>),*)
                -> #root::Delayed<#value>
            {
                let mut __call = #root::__private::Encoder::new(Self::__TASK, #count);
                #(__call.arg::<#types>(#names);)*
                __call.finish()
            }

            /// A call that is submitted at once: to a client, an open run or a task's `Ctx`.
            #visibility fn submit<__Target: #root::Submit>(
                __target: &__Target,
                #(#names: impl #root::IntoArg<#types>),*
            ) -> __Target::Handle<#value> {
                #root::Submit::submit_delayed(__target, Self::delayed(#(#names),*))
            }

            /// A call for each item; tuples, where the task has several arguments.
            #[must_use]
            #visibility fn map<#(#kinds: #root::IntoArg<#types>),*>(
                __items: impl ::core::iter::IntoIterator<Item = #items>,
            ) -> ::std::vec::Vec<#root::Delayed<#value>> {
                ::core::iter::IntoIterator::into_iter(__items)
                    .map(|#item| Self::delayed(#(#names),*))
                    .collect()
            }
        }
    }

    /// What a worker knows of the task.
    fn entry(&self) -> TokenStream {
        let root = &self.options.root;
        let private = quote!(#root::__private);
        let function = &self.function.sig.ident;
        let by_path = function.to_string();
        let by_path = quote!(::core::concat!(::core::module_path!(), "::", #by_path));
        let name = self.options.name.as_ref().map_or(by_path, ToTokens::to_token_stream);
        let (signature, kind) = (self.signature(), &self.options.kind);
        let (fields, values): (Vec<_>, Vec<_>) =
            self.options.fields.iter().map(|(field, value)| (field, value)).unzip();
        let attempt = self.attempt();
        let body = if self.function.sig.asyncness.is_some() {
            quote!(#private::Body::Async(|call| #private::settle_later(attempt(call))))
        } else {
            quote!(#private::Body::Sync(|call| #private::settle(attempt(call))))
        };
        quote! {
            #[doc(hidden)]
            const __TASK: &'static #private::TaskEntry = {
                #attempt

                fn options() -> #private::TaskOptions {
                    #private::TaskOptions {
                        #(#fields: #values,)*
                        ..::core::default::Default::default()
                    }
                }

                static TASK: #private::TaskEntry = #private::TaskEntry {
                    name: #name,
                    signature: #signature,
                    kind: #private::TaskKind::#kind,
                    options,
                    body: #body,
                    file: ::core::file!(),
                    line: ::core::line!(),
                };
                &TASK
            };
        }
    }

    /// `__private`, reported at `span` when something is wrong with what it is given.
    fn private(&self, span: Span) -> TokenStream {
        let root = &self.options.root;
        let tokens = quote_spanned!(span=> #root::__private).into_iter();
        let respan = |mut token: TokenTree| {
            token.set_span(token.span().located_at(span));
            token
        };
        tokens.map(respan).collect()
    }

    /// Decodes the arguments, calls the function and settles what it returned.
    fn attempt(&self) -> TokenStream {
        let private = self.private(Span::call_site());
        let function = &self.function.sig.ident;
        let is_async = self.function.sig.asyncness.is_some();
        let values: Vec<_> =
            (0..self.arguments.len()).map(|number| format_ident!("argument_{number}")).collect();
        // An async attempt owns the call, since it outlives the worker's own frame.
        let call_type = if is_async { quote!(#private::Call) } else { quote!(&#private::Call) };
        let call = if is_async { quote!(&call) } else { quote!(call) };
        let decode =
            self.arguments.iter().zip(&values).enumerate().map(|(number, (argument, value))| {
                let ty = &argument.value;
                let private = self.private(ty.span());
                let get =
                    Ident::new(if argument.borrowed { "lend" } else { "take" }, Span::call_site());
                quote_spanned!(ty.span()=> let #value = #private::#get::<#ty>(#call, #number)?;)
            });
        let given = self.parameters.iter().map(|parameter| match parameter {
            Parameter::Argument(number) if self.arguments[*number].borrowed => {
                let value = &values[*number];
                quote!(&#value)
            }
            Parameter::Argument(number) => values[*number].to_token_stream(),
            Parameter::State { borrowed: false } => quote!(#private::state(#call)?),
            Parameter::State { borrowed: true } => quote!(&#private::state(#call)?),
            Parameter::Ctx { borrowed: true } => quote!(&call.ctx),
            Parameter::Ctx { borrowed: false } => quote!(::core::clone::Clone::clone(&call.ctx)),
        });
        let (asyncness, wait) = is_async.then(|| (quote!(async), quote!(.await))).unzip();
        let settled = self.settled();
        quote! {
            #asyncness fn attempt(call: #call_type)
                -> ::core::result::Result<#private::Outcome, #private::Outcome>
            {
                #(#decode)*
                let returned = #function(#(#given),*) #wait;
                ::core::result::Result::Ok(#settled)
            }
        }
    }

    /// What becomes of `returned`.
    fn settled(&self) -> TokenStream {
        let value = &self.returns.value;
        let span = value.span();
        let private = self.private(span);
        let (error, encode) = match &self.returns.error {
            Some(error) => (quote!(#error), quote!(#private::ErrorType::<#error>::encode)),
            None => (quote!(_), quote!(|_| ::core::option::Option::None)),
        };
        let settle = match self.returns.form {
            Form::Value => quote_spanned! {span=>
                #private::plain(#private::Returned::<#value>::check());
                #private::returned::<#value>(returned)
            },
            Form::Fallible => quote_spanned! {span=>
                #private::returned_result::<#value, #error>(returned, #encode)
            },
            Form::Forwarded => quote_spanned! {span=>
                #private::returned_delayed::<#value>(returned)
            },
            Form::FallibleForwarded => quote_spanned! {span=>
                #private::returned_delayed_result::<#value, #error>(returned, #encode)
            },
        };
        quote! {{
            // These say what is left when a type has no function of its own.
            #[allow(unused_imports, reason = "which one is needed depends on the types")]
            use #private::{Opaque as _, Otherwise as _};
            #settle
        }}
    }

    /// What travels, and so what a client and a worker must agree on: names of parameters, borrows
    /// and errors may change, and `State` and `Ctx` come and go.
    fn signature(&self) -> String {
        let types = self.arguments.iter().map(|argument| &argument.value);
        let arguments = signature::text(quote!((#(#types),*)));
        let value = signature::text(self.returns.value.to_token_stream());
        format!("{arguments} -> {value}")
    }
}
