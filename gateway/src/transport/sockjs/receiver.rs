//! How frames become the response of one way to receive; pure.

use bytes::{Bytes, BytesMut};

use super::path::Receiver;
use crate::protocol::sockjs::script_string;

/// What some browsers collect before they show any of a response.
const PRELUDE_BYTES: usize = 2048;
/// The same for a page in an iframe.
const PAGE_BYTES: usize = 1024;

/// A way to receive, with what it has been asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) receiver: Receiver,
    /// The function of the page that is called with each frame; a checked name.
    callback: String,
}

impl Shape {
    /// One that calls nothing.
    pub(super) fn plain(receiver: Receiver) -> Self {
        Self { receiver, callback: String::new() }
    }

    /// One that calls this.
    pub(super) fn calling(receiver: Receiver, callback: String) -> Self {
        Self { receiver, callback }
    }

    /// Whether its response has one frame and no more.
    pub(super) fn is_poll(&self) -> bool {
        matches!(self.receiver, Receiver::Xhr | Receiver::Jsonp)
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self.receiver {
            Receiver::Xhr | Receiver::XhrStreaming | Receiver::Jsonp => "application/javascript; charset=UTF-8",
            Receiver::EventSource => "text/event-stream",
            Receiver::HtmlFile => "text/html; charset=UTF-8",
        }
    }

    /// What stands in front of the frames of a stream.
    pub(super) fn prelude(&self) -> Bytes {
        match self.receiver {
            Receiver::Xhr | Receiver::Jsonp => Bytes::new(),
            Receiver::XhrStreaming => {
                let mut prelude = BytesMut::zeroed(PRELUDE_BYTES + 1);
                prelude.fill(b'h');
                prelude[PRELUDE_BYTES] = b'\n';
                prelude.freeze()
            }
            Receiver::EventSource => Bytes::from_static(b"\r\n"),
            Receiver::HtmlFile => {
                let mut page = format!(
                    "<!doctype html>\n<html><head>\n  <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\n  \
                     <meta http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />\n</head><body><h2>Don't \
                     panic!</h2>\n  <script>\n    document.domain = document.domain;\n    var c = parent.{};\n    \
                     c.start();\n    function p(d) {{c.message(d);}};\n    window.onload = c.stop;\n  </script>\n",
                    self.callback
                );
                page.extend(std::iter::repeat_n(' ', PAGE_BYTES.saturating_sub(page.len()) + 1));
                page.push_str("\r\n\r\n");
                page.into()
            }
        }
    }

    /// A frame in it.
    pub(super) fn piece(&self, frame: &Bytes) -> Bytes {
        let text = || script_string(&String::from_utf8_lossy(frame));
        match self.receiver {
            Receiver::Xhr | Receiver::XhrStreaming => [frame, &b"\n"[..]].concat().into(),
            Receiver::EventSource => [b"data: ", &frame[..], b"\r\n\r\n"].concat().into(),
            Receiver::HtmlFile => format!("<script>\np({});\n</script>\r\n", text()).into(),
            Receiver::Jsonp => format!("/**/{}({});\r\n", self.callback, text()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(receiver: Receiver, frame: &'static str) -> Bytes {
        Shape::calling(receiver, "cb".to_owned()).piece(&Bytes::from_static(frame.as_bytes()))
    }

    #[test]
    fn frames_as_each_way_has_them() {
        let frame = r#"a["x\"</script>"]"#;
        assert_eq!(piece(Receiver::Xhr, "o"), "o\n");
        assert_eq!(piece(Receiver::XhrStreaming, frame), format!("{frame}\n"));
        assert_eq!(piece(Receiver::EventSource, frame), format!("data: {frame}\r\n\r\n"));
        assert_eq!(piece(Receiver::HtmlFile, "o"), "<script>\np(\"o\");\n</script>\r\n");
        assert_eq!(piece(Receiver::Jsonp, frame), "/**/cb(\"a[\\\"x\\\\\\\"\\u003c/script>\\\"]\");\r\n");
    }

    #[test]
    fn streams_begin_with_what_browsers_wait_for() {
        let prelude = |receiver| Shape::calling(receiver, "cb".to_owned()).prelude();
        assert_eq!(prelude(Receiver::XhrStreaming), format!("{}\n", "h".repeat(2048)));
        assert_eq!(prelude(Receiver::EventSource), "\r\n");
        let page = prelude(Receiver::HtmlFile);
        let page = std::str::from_utf8(&page).unwrap();
        assert!(page.contains("parent.cb;") && page.trim_end().len() < 1024 && page.len() > 1024, "{}", page.len());
        assert!(page.ends_with("\r\n\r\n"));
    }
}
