//! Values become bytes and come back. The default is JSON, the same bytes that `JSON.stringify` makes.

use std::error::Error;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::{Formatter, Serializer};

/// Why a value has no bytes, or bytes no value.
pub type CodecError = Box<dyn Error + Send + Sync>;

/// Turns values into bytes and back.
pub trait Codec<V>: Send + Sync + 'static {
    /// The bytes of a value.
    ///
    /// # Errors
    /// When it has none: the caller gets the value, and nothing is stored.
    fn encode(&self, value: &V) -> Result<Vec<u8>, CodecError>;

    /// The value of bytes.
    ///
    /// # Errors
    /// When they are of another: the caller reads the row.
    fn decode(&self, bytes: &[u8]) -> Result<V, CodecError>;
}

/// Whatever serde knows, as JSON.
#[derive(Clone, Copy, Default, Debug)]
pub struct Json;

impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    fn encode(&self, value: &V) -> Result<Vec<u8>, CodecError> {
        let mut bytes = Vec::with_capacity(128);
        value.serialize(&mut Serializer::with_formatter(&mut bytes, AsJavaScript))?;
        Ok(bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// Texts and bytes as they are.
#[derive(Clone, Copy, Default, Debug)]
pub struct Raw;

impl Codec<Vec<u8>> for Raw {
    fn encode(&self, value: &Vec<u8>) -> Result<Vec<u8>, CodecError> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl Codec<String> for Raw {
    fn encode(&self, value: &String) -> Result<Vec<u8>, CodecError> {
        Ok(value.clone().into_bytes())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Ok(String::from_utf8(bytes.to_vec())?)
    }
}

/// Numbers as JavaScript writes them: no `.0` behind a whole one, digits up to 21 places, `e+21` beyond.
struct AsJavaScript;

impl Formatter for AsJavaScript {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write_number(writer, value.abs(), value < 0.0, &value.abs().to_string(), &format!("{:e}", value.abs()))
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        let text = value.abs().to_string();
        write_number(writer, f64::from(value.abs()), value < 0.0, &text, &format!("{:e}", value.abs()))
    }
}

/// The shortest digits that give the number back, as both languages choose them; only where the point stands differs.
fn write_number<W: ?Sized + io::Write>(
    writer: &mut W,
    size: f64,
    is_negative: bool,
    digits: &str,
    scientific: &str,
) -> io::Result<()> {
    if is_negative {
        writer.write_all(b"-")?;
    }
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return writer.write_all(digits.as_bytes());
    }
    let sign = if size >= 1.0 { "e+" } else { "e" };
    writer.write_all(scientific.replacen('e', sign, 1).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<V: Serialize + DeserializeOwned>(value: V) -> String {
        String::from_utf8(Json.encode(&value).expect("it has a text")).expect("JSON is text")
    }

    /// The right side is what `JSON.stringify` of Node 20 says.
    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e-6, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (123456789012345680000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (-1.25e300, "-1.25e+300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
        ];
        for (number, expected) in cases {
            assert_eq!(text(number), expected);
            assert_eq!(serde_json::from_str::<f64>(expected).expect("a number"), number);
        }
        assert_eq!((text(0.1f32), text(2f32), text(f64::NAN)), ("0.1".into(), "2".into(), "null".into()));
    }

    #[test]
    fn bytes_and_texts_may_stay_as_they_are() {
        let bytes = vec![0, 255, b'V'];
        assert_eq!(Codec::<Vec<u8>>::decode(&Raw, &Raw.encode(&bytes).expect("bytes")).expect("bytes"), bytes);
        assert!(Codec::<String>::decode(&Raw, &bytes).is_err());
    }
}
