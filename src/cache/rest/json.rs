//! Commands as JSON and answers out of JSON. Pure.
//!
//! JSON carries text, and keys may be other bytes: where an argument is no UTF-8 there is the documented other form, in
//! which the last argument is the body of the request, as it is. Answers are asked for in base64, so that each byte of a key
//! comes back as it is. An answer is told from a page of a proxy by its shape, and every item of a pipeline counts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::{Arg, Cmd, ServerError, Value};
use serde_json::Value as Json;

/// One command, as it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum CommandForm {
    /// An array of JSON: each argument is text.
    Array(Vec<u8>),
    /// The path says the command and its first arguments, the body is the last one.
    Body { path: String, last: Vec<u8> },
}

/// The form of a command; `None` where an argument ahead of the last is no UTF-8, which no form can carry.
pub(super) fn form(command: &Cmd) -> Option<CommandForm> {
    let arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        _ => b"0", // The cursor of a scan; Arg is foreign and non-exhaustive.
    });
    of_arguments(&arguments.collect::<Vec<_>>())
}

fn of_arguments(arguments: &[&[u8]]) -> Option<CommandForm> {
    let texts: Option<Vec<&str>> = arguments.iter().map(|argument| std::str::from_utf8(argument).ok()).collect();
    if let Some(texts) = texts {
        return Some(CommandForm::Array(serde_json::to_vec(&texts).expect("texts are JSON")));
    }
    let (last, ahead) = arguments.split_last()?;
    let mut path = String::new();
    for argument in ahead {
        path.push('/');
        std::str::from_utf8(argument).ok()?;
        for byte in *argument {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(*byte)),
                byte => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    Some(CommandForm::Body { path, last: last.to_vec() })
}

/// The body of a pipeline or a transaction.
pub(super) fn array<'a>(commands: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut body = vec![b'['];
    for command in commands {
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(command);
    }
    body.push(b']');
    body
}

/// An answer that says something, or nothing that can be understood.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum JsonAnswer {
    /// A reply for each command.
    Replies(Vec<Value>),
    /// Nothing was executed, or all of it was discarded: code and text.
    Refused(String, String),
    /// No answer of this interface.
    Foreign,
}

/// Reads the answer to one command, or to a pipeline of `count`.
pub(super) fn answered(body: &[u8], count: Option<usize>) -> JsonAnswer {
    let Ok(json) = serde_json::from_slice::<Json>(body) else { return JsonAnswer::Foreign };
    let replies = match (json, count) {
        (Json::Array(items), Some(count)) if items.len() == count => {
            items.into_iter().map(item).collect::<Option<Vec<_>>>()
        }
        (Json::Object(fields), count) => match item(Json::Object(fields)) {
            Some(Value::ServerError(error)) if count.is_some() => {
                return JsonAnswer::Refused(error.code().to_owned(), error.details().unwrap_or_default().to_owned());
            }
            Some(value) if count.is_none() => Some(vec![value]),
            Some(_) | None => None,
        },
        (_, _) => None,
    };
    replies.map_or(JsonAnswer::Foreign, JsonAnswer::Replies)
}

fn item(json: Json) -> Option<Value> {
    let Json::Object(mut fields) = json else { return None };
    if let Some(Json::String(text)) = fields.get("error") {
        return Some(refusal(text));
    }
    value(fields.remove("result")?)
}

/// An error reply. Its text is never shown, see `cache/reply.rs`.
fn refusal(text: &str) -> Value {
    let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
    let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
    ServerError::try_from(error).map_or(Value::Nil, Value::ServerError)
}

fn value(json: Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Nil,
        Json::Number(number) => Value::Int(number.as_i64()?),
        // The one text that is not encoded; base64 of that length does not exist.
        Json::String(text) if text == "OK" => Value::Okay,
        Json::String(text) => Value::BulkString(STANDARD.decode(text).ok()?),
        Json::Array(items) => Value::Array(items.into_iter().map(value).collect::<Option<_>>()?),
        Json::Bool(_) | Json::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_goes_as_a_body_and_never_as_another_key() {
        let array = |text: &str| Some(CommandForm::Array(text.as_bytes().to_vec()));
        assert_eq!(of_arguments(&[b"UNLINK", b"a\"\n", "é".as_bytes()]), array(r#"["UNLINK","a\"\n","é"]"#));
        let body = CommandForm::Body { path: "/SCAN/0/MATCH%2F".to_owned(), last: b"\xff*".to_vec() };
        assert_eq!(of_arguments(&[b"SCAN", b"0", b"MATCH/", b"\xff*"]), Some(body));
        assert_eq!(of_arguments(&[b"UNLINK", b"\xff", b"a"]), None);
        assert_eq!(super::array([&b"[1]"[..], b"[2]"].into_iter()), b"[[1],[2]]");
    }

    #[test]
    fn answers_are_read_by_their_shape() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        for (body, count, expected) in [
            (r#"{"result":null}"#, None, Some(vec![Value::Nil])),
            (r#"{"result":7}"#, None, Some(vec![Value::Int(7)])),
            (r#"{"result":"OK"}"#, None, Some(vec![Value::Okay])),
            (r#"{"result":"/w=="}"#, None, Some(vec![Value::BulkString(vec![255])])),
            (
                r#"{"result":["MA==",["YQ=="]]}"#,
                None,
                Some(vec![Value::Array(vec![bulk("0"), Value::Array(vec![bulk("a")])])]),
            ),
            (r#"[{"result":1},{"result":2}]"#, Some(2), Some(vec![Value::Int(1), Value::Int(2)])),
            (r#"[{"result":1}]"#, Some(2), None),
            (r#"{"result":1}"#, Some(1), None),
            (r#"{"result":"not base64!"}"#, None, None),
            (r#"{"result":1.5}"#, None, None),
            (r#"{"message":"x"}"#, None, None),
            (r#"[{"result":1},{"res"#, Some(2), None),
            ("<!DOCTYPE html>", None, None),
            ("", Some(1), None),
        ] {
            let expected = expected.map_or(JsonAnswer::Foreign, JsonAnswer::Replies);
            assert_eq!(answered(body.as_bytes(), count), expected, "{body}");
        }
        let JsonAnswer::Replies(replies) = answered(br#"[{"result":1},{"error":"ERR no"}]"#, Some(2)) else {
            panic!("an error of one item is a reply");
        };
        assert!(matches!(&replies[1], Value::ServerError(error) if error.code() == "ERR"));
        let refused = JsonAnswer::Refused("WRONGPASS".to_owned(), "x y".to_owned());
        assert_eq!(answered(br#"{"error":"WRONGPASS x y"}"#, Some(2)), refused);
    }
}
