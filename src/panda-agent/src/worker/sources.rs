//! A chroot's apt sources, rendered from a build's `archives`: pure text, written into the chroot by
//! [`super::inner::apt`].
//!
//! One-line style (`sources.list`) for Debian and for Ubuntu before 24.04; deb822 style
//! (`sources.list.d/lp-buildd.sources`) from there on. A series that is not listed here is taken for
//! a newer Ubuntu: every apt that knows neither is older than both lists.

/// Ubuntu before 24.04, and Debian: their sources are written one to a line.
const ONE_LINE: &[&str] = &[
    // Ubuntu
    "warty",
    "hoary",
    "breezy",
    "dapper",
    "edgy",
    "feisty",
    "gutsy",
    "hardy",
    "intrepid",
    "jaunty",
    "karmic",
    "lucid",
    "maverick",
    "natty",
    "oneiric",
    "precise",
    "quantal",
    "raring",
    "saucy",
    "trusty",
    "utopic",
    "vivid",
    "wily",
    "xenial",
    "yakkety",
    "zesty",
    "artful",
    "bionic",
    "cosmic",
    "disco",
    "eoan",
    "focal",
    "groovy",
    "hirsute",
    "impish",
    "jammy",
    "kinetic",
    "lunar",
    "mantic",
    // Debian
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "experimental",
    "sid",
    "rc-buggy",
    "potato",
    "woody",
    "sarge",
    "etch",
    "lenny",
    "squeeze",
    "wheezy",
    "jessie",
    "stretch",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

/// The file that deb822 sources are written to.
pub(crate) const DEB822_FILE: &str = "etc/apt/sources.list.d/lp-buildd.sources";
/// The file that one-line sources are written to; emptied for deb822.
pub(crate) const ONE_LINE_FILE: &str = "etc/apt/sources.list";

/// Which style a series' apt is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One line a source.
    OneLine,
    /// A stanza a source.
    Deb822,
}

/// The style for `series`.
pub(crate) fn style(series: &str) -> Style {
    if ONE_LINE.contains(&series) {
        Style::OneLine
    } else {
        Style::Deb822
    }
}

/// The sources' file for `archives`, which are valid one-line sources.
pub(crate) fn render(style: Style, archives: &[String]) -> String {
    match style {
        Style::OneLine => archives
            .iter()
            .fold(String::new(), |text, line| text + line.trim() + "\n"),
        Style::Deb822 => archives
            .iter()
            .filter_map(|line| stanza(line))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

/// `deb [option=value …] uri suite component…` as a stanza.
fn stanza(line: &str) -> Option<String> {
    let (kind, rest) = line.trim().split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let mut text = format!(
        "Types: {kind}\nURIs: {}\nSuites: {}\n",
        words.next()?,
        words.next()?
    );
    let components: Vec<_> = words.collect();
    if !components.is_empty() {
        text += &format!("Components: {}\n", components.join(" "));
    }
    for option in options.split_ascii_whitespace() {
        let Some((name, value)) = option.split_once('=') else {
            continue;
        };
        let (name, suffix) = match (name.strip_suffix('+'), name.strip_suffix('-')) {
            (Some(name), _) => (name, "-Add"),
            (_, Some(name)) => (name, "-Remove"),
            _ => (name, ""),
        };
        text += &format!("{}{suffix}: {}\n", field(name), value.replace(',', " "));
    }
    Some(text)
}

/// A one-line option's name as a deb822 field (sources.list(5)).
fn field(option: &str) -> String {
    match option {
        "arch" => "Architectures".to_owned(),
        "lang" => "Languages".to_owned(),
        "target" => "Targets".to_owned(),
        "pdiffs" => "PDiffs".to_owned(),
        other => other
            .split('-')
            .map(|word| {
                let mut letters = word.chars();
                letters
                    .next()
                    .map(|first| first.to_ascii_uppercase())
                    .into_iter()
                    .chain(letters)
                    .collect()
            })
            .collect::<Vec<String>>()
            .join("-"),
    }
}

/// `apt.conf.d`: retries, the proxy where there is one, and updates that Ubuntu hands out in phases:
/// what a package is built with must not depend on the machine that builds it. Nobody is there to be asked before packages
/// are installed (`70debconf`), and Perl is not started to find that out.
pub(crate) fn apt_conf(proxy: Option<&str>) -> String {
    let mut text = "Acquire::Retries \"3\";\nAPT::Get::Always-Include-Phased-Updates \"true\";\n\
         #clear DPkg::Pre-Install-Pkgs;\n"
        .to_owned();
    if let Some(proxy) = proxy {
        text += &format!(
            "Acquire::http::Proxy \"{}\";\n",
            proxy.replace(['"', '\n'], "")
        );
    }
    text
}

/// `preferences.d`: proposed and backports count as much as the rest.
pub(crate) const PINS: &str = "Package: *\nPin: release a=*-proposed\nPin-Priority: 500\n\n\
    Package: *\nPin: release a=*-backports\nPin-Priority: 500\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_the_style_of_its_apt() {
        for series in ["lucid", "jammy", "mantic", "bookworm", "sid", "unstable"] {
            assert_eq!(style(series), Style::OneLine, "{series}");
        }
        for series in ["noble", "oracular", "plucky", "some-later-one"] {
            assert_eq!(style(series), Style::Deb822, "{series}");
        }
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn one_line_sources_stay_as_they_are() {
        let archives = lines(&[
            "deb http://u:p@ppa.example/x jammy main ",
            "deb http://a.example/ubuntu jammy main universe",
        ]);
        assert_eq!(
            render(Style::OneLine, &archives),
            "deb http://u:p@ppa.example/x jammy main\ndeb http://a.example/ubuntu jammy main universe\n"
        );
        assert_eq!(render(Style::OneLine, &[]), "");
    }

    #[test]
    fn deb822_sources_are_stanzas_with_their_options() {
        let archives = lines(&[
            "deb http://a.example/ubuntu noble main universe",
            "deb [arch=armhf,amd64 trusted=yes signed-by=/k.gpg lang-=de] http://b.example/flat ./",
        ]);
        assert_eq!(
            render(Style::Deb822, &archives),
            "Types: deb\nURIs: http://a.example/ubuntu\nSuites: noble\nComponents: main universe\n\n\
             Types: deb\nURIs: http://b.example/flat\nSuites: ./\nArchitectures: armhf amd64\n\
             Trusted: yes\nSigned-By: /k.gpg\nLanguages-Remove: de\n"
        );
    }

    #[test]
    fn a_proxy_cannot_break_out_of_its_quotes() {
        assert!(!apt_conf(None).contains("Proxy"));
        let conf = apt_conf(Some("http://proxy.example:3128/\";\nEvil \"1"));
        assert!(
            conf.ends_with("Acquire::http::Proxy \"http://proxy.example:3128/;Evil 1\";\n"),
            "{conf}"
        );
    }
}
