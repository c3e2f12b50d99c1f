use http::HeaderValue;

/// The name in `Sec-WebSocket-Extensions`.
const NAME: &str = "permessage-deflate";
/// zlib cannot make raw DEFLATE with a window of 8 bits.
const SMALLEST_WINDOW: u8 = 9;
const LARGEST_WINDOW: u8 = 15;

/// What was agreed on for permessage-deflate (RFC 7692 §7.1). That neither side keeps a context between messages is always
/// part of it: so one compressed form serves every receiver, and a silent connection holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    window_bits: u8,
}

impl Agreed {
    /// The window that we compress with, in bits.
    pub fn window_bits(self) -> u8 {
        self.window_bits
    }

    /// Whether what was compressed for others serves this client too.
    pub fn is_usual(self) -> bool {
        self.window_bits == LARGEST_WINDOW
    }
}

/// Chooses the first offer that can be served, and what `Sec-WebSocket-Extensions` answers to it. What is unknown, doubled
/// or no value of its parameter makes an offer be declined (RFC 7692 §7): the connection goes on without.
pub fn negotiate<'a>(offers: impl IntoIterator<Item = &'a HeaderValue>) -> Option<(Agreed, HeaderValue)> {
    let lines = offers.into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).find_map(accept)
}

fn accept(offer: &str) -> Option<(Agreed, HeaderValue)> {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next()? != NAME {
        return None;
    }
    let (mut server_context, mut client_context, mut server_window, mut client_window) = (None, None, None, None);
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
            None => (part, None),
        };
        let once = match (name, value) {
            ("server_no_context_takeover", None) => server_context.replace(()).is_none(),
            ("client_no_context_takeover", None) => client_context.replace(()).is_none(),
            ("server_max_window_bits", Some(value)) => server_window.replace(window(value)?).is_none(),
            ("client_max_window_bits", value) => {
                let bits = value.map_or(Some(LARGEST_WINDOW), window)?;
                client_window.replace(bits).is_none()
            }
            _ => false,
        };
        if !once {
            return None;
        }
    }
    let window_bits = server_window.unwrap_or(LARGEST_WINDOW);
    if window_bits < SMALLEST_WINDOW {
        return None;
    }
    // Both may be answered without having been offered (§7.1.1.1, §7.1.1.2).
    let mut answer = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
    if let Some(bits) = server_window {
        answer.push_str(&format!("; server_max_window_bits={bits}"));
    }
    Some((Agreed { window_bits }, HeaderValue::try_from(answer).ok()?))
}

/// RFC 7692 §7.1.2.1: a decimal number from 8 to 15 without leading zeros.
fn window(value: &str) -> Option<u8> {
    let is_plain = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|bits| is_plain && (8..=LARGEST_WINDOW).contains(bits))
}

/// A parameter's value may be a quoted string (RFC 6455 §9.1).
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(offer: &'static str) -> Option<(u8, String)> {
        let (agreed, answer) = negotiate([&HeaderValue::from_static(offer)])?;
        Some((agreed.window_bits(), answer.to_str().unwrap().to_owned()))
    }

    const USUAL: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn usual_offers_are_accepted() {
        let usual = || Some((15, USUAL.to_owned()));
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate;server_no_context_takeover ; client_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits",
        ] {
            assert_eq!(answer(offer), usual(), "{offer}");
        }
        let narrow = format!("{USUAL}; server_max_window_bits=10");
        assert_eq!(answer("permessage-deflate; server_max_window_bits=\"10\""), Some((10, narrow)));
    }

    #[test]
    fn what_cannot_be_served_is_passed_over() {
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; dance",
            "permessage-deflate;",
        ] {
            assert_eq!(answer(offer), None, "{offer}");
        }
        let second = answer("permessage-deflate; server_max_window_bits=8, permessage-deflate; client_max_window_bits");
        assert_eq!(second, Some((15, USUAL.to_owned())));
    }
}
