//! The token that comes with a handshake: in `Authorization`, in the address, or in a cookie; pure.

use http::{HeaderMap, Request, header};

use crate::{config::Settings, session::Credential};

/// Finds it; the first of these that is there. A cookie counts only where `may_ride` says so: a browser sends it along
/// whatever page asks.
pub(super) fn token<B>(request: &Request<B>, settings: &Settings, may_ride: bool) -> Option<Credential> {
    let headers = request.headers();
    let found = bearer(headers).map(str::to_owned);
    let found = found.or_else(|| Some(decoded(parameter(request.uri().query(), "token")?)));
    let name = settings.auth.tokens.cookie.as_deref().filter(|_| may_ride);
    found.or_else(|| Some(cookie(headers, name?)?.to_owned())).map(Credential::new)
}

/// The value of a parameter, as it stands in the address.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    parameters(query, name).next()
}

/// All values of a parameter that may stand there more than once.
pub(super) fn parameters<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = query.unwrap_or_default().split('&');
    pairs.filter_map(move |pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// Without what a form, or `URLSearchParams`, needs to carry it; `None` if it is not UTF-8.
pub(super) fn form_decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(|text| text.into_owned())
}

/// Without what an address needs to carry it.
pub(super) fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Another scheme is for somebody else, as a proxy that asks for a password.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// RFC 6265 §5.4: pairs between semicolons. HTTP/2 may send each in a line of its own.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.find(|(key, _)| *key == name)?.1;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn settings() -> Settings {
        let flags = Flags { dev: true, ..Flags::default() };
        let tokens = r#"{ keys = [{ alg = "HS256", secret = "0123456789abcdef0123456789abcdef" }], cookie = "sid" }"#;
        Settings::load(&flags, [("SKYWAVE__AUTH__TOKENS", tokens)]).unwrap()
    }

    fn found(uri: &str, lines: &[(&str, &str)], may_ride: bool) -> Option<String> {
        let mut request = Request::get(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        token(&request.body(()).unwrap(), &settings(), may_ride).map(|token| token.reveal().to_owned())
    }

    #[test]
    fn the_first_place_counts() {
        let header = ("authorization", "bearer  header");
        let cookies = ("cookie", "a=b; sid=\"cookie\"; sid=later");
        let all = found("/ws?x=1&token=a%2Eb", &[header, cookies], true);
        assert_eq!(all.as_deref(), Some("header"));
        assert_eq!(found("/ws?x=1&token=a%2Eb", &[cookies], true).as_deref(), Some("a.b"));
        assert_eq!(found("/ws?tokens=1", &[cookies], true).as_deref(), Some("cookie"));
        assert_eq!(found("/ws", &[], true), None);
        assert_eq!(found("/ws", &[("authorization", "Basic YTpi")], true), None, "a password is no token");
    }

    #[test]
    fn a_cookie_counts_only_where_its_page_may_use_it() {
        let cookies = ("cookie", "sid=cookie");
        assert_eq!(found("/ws", &[cookies], false), None);
        assert_eq!(found("/ws?token=t", &[cookies], false).as_deref(), Some("t"));
        assert_eq!(found("/ws", &[("cookie", "xsid=1; si=2")], true), None);
    }
}
