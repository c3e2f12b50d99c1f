//! The page that sockjs-client puts into an iframe, to speak with this host from a page of another one; and the client's script
//! for it.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};

use super::{headers, path::CLIENT};
use crate::{
    config::{Origin, Settings, SockJsService},
    transport::http::Answer,
};

/// sockjs-client 1.6.1 (MIT; its licence lies beside it), as published, without the reference to its source map.
static SCRIPT: &[u8] = include_bytes!("../../../sockjs/sockjs-1.6.1.min.js");

/// The page, as the protocol prescribes it.
fn page(url: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n<head>\n  <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\n  <meta \
         http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />\n  <script src=\"{url}\"></script>\n  \
         <script>\n    document.domain = document.domain;\n    SockJS.bootstrap_iframe();\n  </script>\n</head>\n<body>\n  \
         <h2>Don't panic!</h2>\n  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>\n</body>\n</html>"
    )
}

/// Answers a request for the page.
pub(super) fn answer(service: &SockJsService, settings: &Settings, asked: &HeaderMap) -> Answer {
    let url = service.client_url.clone().unwrap_or_else(|| format!("{}/{CLIENT}", service.prefix));
    let page = page(&url);
    let mut tag = String::from("\"");
    for byte in Sha256::digest(&page).iter().take(16) {
        let _ = write!(tag, "{byte:02x}"); // a String takes everything
    }
    tag.push('"');
    let mut answer = if asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        let mut answer = Response::new(Full::<Bytes>::default().into());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        let mut answer: Answer = Response::new(Full::from(page).into());
        let kind = HeaderValue::from_static("text/html; charset=UTF-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    };
    let headers = answer.headers_mut();
    headers::kept(headers);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in [(header::ETAG, tag), (header::CONTENT_SECURITY_POLICY, policy(settings))] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    answer
}

/// Who may put the page into a frame: whoever may connect.
fn policy(settings: &Settings) -> String {
    let origins = &settings.public.origins;
    let mut policy = String::from("frame-ancestors");
    if settings.development() {
        policy.push_str(" 'self' http://localhost:* https://localhost:* http://127.0.0.1:* https://127.0.0.1:*");
    } else if origins.is_empty() {
        policy.push_str(" 'self'");
    }
    for origin in origins {
        // `*` of a policy is any host of any scheme of the web.
        let _ = write!(policy, " {origin}"); // a String takes everything
    }
    if origins.contains(&Origin::Any) {
        policy.push_str(" http: https:");
    }
    policy
}

/// Answers a request for the script.
pub(super) fn script() -> Answer {
    let mut answer: Answer = Response::new(Full::from(Bytes::from_static(SCRIPT)).into());
    let headers = answer.headers_mut();
    headers::kept(headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn policy_of(dev: bool, origins: &str) -> String {
        let flags = Flags { dev, ..Flags::default() };
        policy(&Settings::load(&flags, [("SKYWAVE__PUBLIC__ORIGINS", origins), ("SKYWAVE__NODE__NAME", "a")]).unwrap())
    }

    #[test]
    fn whoever_may_connect_may_frame_the_page() {
        let own = r#"["https://a.example.com", "https://*.example.org:8443"]"#;
        assert_eq!(policy_of(false, own), "frame-ancestors https://a.example.com https://*.example.org:8443");
        assert_eq!(policy_of(false, "[]"), "frame-ancestors 'self'");
        assert_eq!(policy_of(false, r#"["*"]"#), "frame-ancestors * http: https:");
        assert!(policy_of(true, "[]").starts_with("frame-ancestors 'self' http://localhost:* "));
    }

    #[test]
    fn the_page_names_its_script_and_is_asked_for_once() {
        let settings = Settings::load(&Flags { dev: true, ..Flags::default() }, [("", "")]).unwrap();
        let service = SockJsService::default();
        let first = answer(&service, &settings, &HeaderMap::new());
        let tag = first.headers()[header::ETAG].clone();
        let again = answer(&service, &settings, &HeaderMap::from_iter([(header::IF_NONE_MATCH, tag.clone())]));
        assert_eq!(again.status(), 304);
        assert!(!again.headers().contains_key(header::CONTENT_TYPE) && again.headers()[header::ETAG] == tag);
        assert!(page("/sockjs/x.js").contains("<script src=\"/sockjs/x.js\"></script>"));
        assert!(SCRIPT.starts_with(b"/* sockjs-client v1.6.1 "));
    }
}
