//! Values of settings have one shape in a file, and say in their schema which: `written_as!(Type, "title", { … })`.

/// Gives a type the schema of what is written for it; the title says it in words.
macro_rules! written_as {
    ($type:ty, $title:expr, { $($schema:tt)* }) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "title": $title, $($schema)* })
            }
        }
    };
}

/// The same, and it is written as it is shown.
macro_rules! written_as_shown {
    ($type:ty, $title:expr) => {
        $crate::config::written::written_as!($type, $title, { "type": "string" });

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

pub(super) use written_as;
pub(super) use written_as_shown;
