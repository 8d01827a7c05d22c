//! What an image is asked for with, and what one is taken for.

use std::fs;

use super::*;

#[test]
fn the_agent_is_told_its_architecture() {
    assert_eq!(settings("armhf").unwrap().arch, "armhf");
    assert!(settings("no arch").is_err());
}

#[test]
fn only_a_whole_image_of_the_same_parts_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("image");
    let agent = directory.path().join("agent");
    fs::write(&agent, "an agent").unwrap();
    let made = crate::process::make(&place, &agent, &settings("amd64").unwrap()).unwrap();
    assert!(there_already(&place, "these parts").is_none());
    fs::write(place.join(MADE_FROM), "these parts").unwrap();
    assert_eq!(
        there_already(&place, "these parts").unwrap().id(),
        made.id()
    );
    assert!(there_already(&place, "other parts").is_none());
    fs::write(place.join("kernel"), "changed").unwrap();
    assert!(there_already(&place, "these parts").is_none());
}
