//! Lists the mails in `templates/<area>/`: a constant for each, and all with their samples.

use std::{
    env,
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

#[expect(clippy::disallowed_methods, reason = "cargo sets the output folder of build scripts")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=templates");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let mut mails = mails(&folder)?;
    mails.sort();
    let mut code = String::new();
    for mail in &mails {
        writeln!(code, "{}", constant(mail))?;
    }
    writeln!(code, "/// Every mail with its samples, a JSON object of values by name.")?;
    writeln!(code, "pub(crate) const MAILS: &[(Template, &str)] = &[")?;
    for mail in &mails {
        writeln!(code, "    ({}, {}),", name(mail).to_uppercase(), embedded(mail, "json"))?;
    }
    writeln!(code, "];")?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("templates.rs"), code)?;
    Ok(())
}

/// The mails as `area/name`.
fn mails(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut mails = Vec::new();
    for area in fs::read_dir(folder)? {
        let area = area?.path();
        if !area.is_dir() {
            continue;
        }
        for file in fs::read_dir(&area)? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "txt") {
                let mail = file.strip_prefix(folder)?.with_extension("");
                mails.push(mail.display().to_string());
            }
        }
    }
    Ok(mails)
}

fn name(mail: &str) -> &str {
    mail.rsplit('/').next().unwrap_or(mail)
}

fn constant(mail: &str) -> String {
    let name = name(mail);
    let (text, html, layout) =
        (embedded(mail, "txt"), embedded(mail, "html"), embedded("layout", "html"));
    format!(
        "/// `templates/{mail}`\n\
         pub(crate) const {}: Template =\n    \
         Template {{ name: {name:?}, text: {text}, html: {html}, layout: {layout} }};",
        name.to_uppercase()
    )
}

fn embedded(file: &str, extension: &str) -> String {
    let path = format!("/templates/{file}.{extension}");
    format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))")
}
