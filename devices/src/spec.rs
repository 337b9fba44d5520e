//! How a device is written on the command line: a first value and options,
//! `VALUE,flag,key=value`. A comma inside a value is written twice.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

/// What is wrong with a device's description.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// An option that the device does not have.
    #[error("{device}: unknown option '{option}'; it takes {known}")]
    Unknown {
        /// Which device.
        device: &'static str,
        /// The option as written.
        option: String,
        /// What it takes.
        known: String,
    },
    /// An option was given more than once.
    #[error("{device}: option '{option}' is given twice")]
    Twice {
        /// Which device.
        device: &'static str,
        /// The option as written.
        option: String,
    },
    /// A value is missing or is not of the form that the option takes.
    #[error("{device}: {option}: {why}")]
    Value {
        /// Which device.
        device: &'static str,
        /// The option as written.
        option: String,
        /// What is wrong, and what it should be.
        why: String,
    },
}

/// One description, split at its commas; options are taken out one by one and
/// [`Options::finish`] refuses what is left.
#[derive(Debug)]
pub struct Options {
    device: &'static str,
    items: Vec<(String, Option<String>)>,
    asked: Vec<&'static str>,
}

impl Options {
    /// Splits `text` for the device that is called `device` in messages.
    ///
    /// # Errors
    /// [`SpecError::Twice`] when an option is repeated.
    pub fn parse(device: &'static str, text: &str) -> Result<Self, SpecError> {
        let mut items: Vec<(String, Option<String>)> = Vec::new();
        for item in split(text) {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (item, None),
            };
            if items.iter().any(|(k, _)| *k == key) {
                return Err(SpecError::Twice {
                    device,
                    option: key,
                });
            }
            items.push((key, value));
        }
        Ok(Options {
            device,
            items,
            asked: Vec::new(),
        })
    }

    /// The first item, which has no key; whole, even when it holds an `=`.
    pub fn first(&mut self) -> Option<String> {
        if self.items.is_empty() {
            return None;
        }
        let (key, value) = self.items.remove(0);
        Some(match value {
            Some(value) => format!("{key}={value}"),
            None => key,
        })
        .filter(|v| !v.is_empty())
    }

    /// A flag: absent is false; `key`, `key=on` true; `key=off` false.
    ///
    /// # Errors
    /// [`SpecError::Value`] for any other value.
    pub fn flag(&mut self, key: &'static str) -> Result<bool, SpecError> {
        match self.take(key) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(v)) if v == "on" => Ok(true),
            Some(Some(v)) if v == "off" => Ok(false),
            Some(Some(v)) => Err(self.bad(key, format!("'{v}' is neither 'on' nor 'off'"))),
        }
    }

    /// The value of `key`, if it is there.
    ///
    /// # Errors
    /// [`SpecError::Value`] when the value is missing or does not parse.
    pub fn value<T>(&mut self, key: &'static str) -> Result<Option<T>, SpecError>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.take(key) {
            None => Ok(None),
            Some(None) => Err(self.bad(key, "needs a value, as in 'key=value'".to_owned())),
            Some(Some(v)) => match v.parse() {
                Ok(value) => Ok(Some(value)),
                Err(e) => Err(self.bad(key, format!("'{v}': {e}"))),
            },
        }
    }

    /// As [`Options::value`], for a number whose bounds a message about text that
    /// is none, or too large for `T`, should name. They are not checked: that is the
    /// description's, wherever it came from.
    ///
    /// # Errors
    /// [`SpecError::Value`] when the value is missing or is no such number.
    pub fn number<T: FromStr + Display>(
        &mut self,
        key: &'static str,
        min: T,
        max: T,
    ) -> Result<Option<T>, SpecError> {
        let text: Option<String> = self.value(key)?;
        let Some(text) = text else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(self.bad(key, format!("'{text}' is not a number from {min} to {max}"))),
        }
    }

    /// An error about option `key` of this device.
    pub fn bad(&self, key: &str, why: String) -> SpecError {
        SpecError::Value {
            device: self.device,
            option: key.to_owned(),
            why,
        }
    }

    /// Ends the parse.
    ///
    /// # Errors
    /// [`SpecError::Unknown`] when an option was not taken.
    pub fn finish(self) -> Result<(), SpecError> {
        match self.items.into_iter().next() {
            None => Ok(()),
            Some((option, _)) => Err(SpecError::Unknown {
                device: self.device,
                option,
                known: self.asked.join(", "),
            }),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Option<String>> {
        self.asked.push(key);
        let at = self.items.iter().position(|(k, _)| k == key)?;
        Some(self.items.remove(at).1)
    }
}

fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(c);
        }
    }
    items
}

/// A description in JSON, which must be an object: a derived type would take a list
/// of its fields' values as well, in which nobody could see what is what.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, as in {\"name\": value}")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// For `deserialize_with`: a list of objects.
///
/// # Errors
/// The deserializer's.
pub fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|object| object.0).collect())
}

/// For `deserialize_with`: an object, or null for none.
///
/// # Errors
/// The deserializer's.
pub fn optional_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let object = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(object.map(|object| object.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_by_name_and_the_rest_refused() {
        let mut o = Options::parse("disk", "/a,,b=c,readonly,queues=4").unwrap();
        assert_eq!(o.first().as_deref(), Some("/a,b=c"));
        assert!(o.flag("readonly").unwrap());
        assert_eq!(o.value::<u16>("queues").unwrap(), Some(4));
        o.finish().unwrap();

        let mut o = Options::parse("disk", "p,redonly").unwrap();
        o.first();
        assert!(!o.flag("readonly").unwrap());
        let e = o.finish().unwrap_err().to_string();
        assert_eq!(e, "disk: unknown option 'redonly'; it takes readonly");
    }

    #[test]
    fn bad_values_name_the_option() {
        assert!(matches!(
            Options::parse("net", "tap=a,tap=b"),
            Err(SpecError::Twice { .. })
        ));
        let mut o = Options::parse("disk", "p,queues=many,readonly=maybe,id").unwrap();
        assert!(
            o.value::<u16>("queues")
                .unwrap_err()
                .to_string()
                .starts_with("disk: queues: 'many': ")
        );
        assert!(o.flag("readonly").is_err());
        assert!(o.value::<String>("id").is_err());
        let mut o = Options::parse("disk", "p,queues=99999").unwrap();
        assert_eq!(
            o.number::<u16>("queues", 1, 16).unwrap_err().to_string(),
            "disk: queues: '99999' is not a number from 1 to 16"
        );
        assert_eq!(Options::parse("disk", "").unwrap().first(), None);
    }
}
