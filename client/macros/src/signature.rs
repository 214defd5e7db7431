//! Types as text. The compiler's own text of tokens changes between versions, and a signature is
//! compared between programs.

use proc_macro2::{TokenStream, TokenTree};

/// The tokens with one space between words and after commas and nowhere else, and of paths the last
/// parts, since the same type may be imported or not.
pub(crate) fn text(tokens: TokenStream) -> String {
    let mut out = String::new();
    write(tokens, &mut out);
    out
}

fn write(tokens: TokenStream, out: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                out.push_str(open);
                write(group.stream(), out);
                out.push_str(close);
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && next_is_colon(tokens.peek()) => {
                tokens.next();
                let kept = out.trim_end_matches(|last: char| last.is_alphanumeric() || last == '_');
                out.truncate(kept.len());
            }
            TokenTree::Punct(punct) => {
                out.push(punct.as_char());
                if matches!(punct.as_char(), ',' | ';') {
                    out.push(' ');
                }
            }
            word => {
                let word = word.to_string();
                if out.ends_with(|last: char| last.is_alphanumeric() || last == '_') {
                    out.push(' ');
                }
                out.push_str(&word);
            }
        }
    }
}

fn next_is_colon(next: Option<&TokenTree>) -> bool {
    matches!(next, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_short_and_spaces_stand_only_where_words_would_run_together() {
        let tokens = "( std :: vec :: Vec < Day > , [ u8 ; 4 ] , fn ( & dyn Any ) -> u8 )";
        let tokens: TokenStream = tokens.parse().unwrap();
        assert_eq!(text(tokens), "(Vec<Day>, [u8; 4], fn(&dyn Any)->u8)");
    }
}
