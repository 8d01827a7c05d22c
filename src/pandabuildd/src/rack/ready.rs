//! What a rack needs before it can start, looked at without touching a board, writing a file or listening anywhere: its
//! image, its credentials for Launchpad's web service, and what its drivers need of this machine. `check` and `serve` tell
//! everything of it that is wrong.

use std::sync::Arc;

use panda_board::driver::Machine;

use super::{RackError, drivers};
use crate::config::{Config, ConfigError, Examined, Places, Problem, Problems};
use crate::webservice::WebService;
use panda_image::{Image, ImageError};

/// What a rack needs, found and right.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) image: Arc<Image>,
    pub(crate) webservice: Option<Arc<WebService>>,
}

impl Ready {
    /// Looks at all that `config` names.
    ///
    /// # Errors
    /// Everything that is wrong, at least one thing.
    pub(crate) async fn examine(config: &Config) -> Result<Self, Vec<RackError>> {
        let mut wrong = Vec::new();
        let webservice = match config.webservice.clone().map(WebService::new).transpose() {
            Ok(webservice) => webservice.map(Arc::new),
            Err(error) => {
                wrong.push(error.into());
                None
            }
        };
        let slots = config.slots.clone();
        let directory = config.rack.image.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let missing = drivers::find(&slots, &Machine::default());
            (Image::examine(&directory), missing)
        });
        let Ok((image, missing)) = looked.await else {
            return Err(vec![RackError::Interrupted]);
        };
        wrong.extend(missing);
        match image {
            Ok(image) if wrong.is_empty() => Ok(Self {
                image: Arc::new(image),
                webservice,
            }),
            Ok(_) => Err(wrong),
            Err(errors) => {
                wrong.extend(errors.into_iter().map(RackError::from));
                Err(wrong)
            }
        }
    }

    /// Reads a configuration, and looks at all that it names, as far as it can be read.
    ///
    /// # Errors
    /// Everything that is wrong, with its place in the configuration.
    pub(crate) async fn of(path: &std::path::Path) -> Result<(Config, Self), ConfigError> {
        let Examined {
            config,
            image,
            places,
        } = Examined::load(path);
        let problems = match config {
            Ok(config) => match Self::examine(&config).await {
                Ok(ready) => return Ok((config, ready)),
                Err(wrong) => {
                    let placed = wrong.iter().map(|error| placed(error, &config, &places));
                    placed.collect()
                }
            },
            Err(ConfigError::Wrong(problems)) => {
                let mut problems: Vec<Problem> = problems.into_iter().collect();
                if let Some(directory) = image {
                    let looked = tokio::task::spawn_blocking(move || Image::examine(&directory));
                    let wrong = looked.await.map_or_else(|_| Vec::new(), wrong_of);
                    let placed = wrong.iter().map(|error| of_image(error, &places));
                    problems.extend(placed);
                }
                problems
            }
            Err(error) => return Err(error),
        };
        Err(ConfigError::Wrong(Problems::of(problems).unwrap_or_else(
            || {
                places
                    .problem("", "", "something that it names is wrong")
                    .into()
            },
        )))
    }
}

fn wrong_of(image: Result<Image, Vec<ImageError>>) -> Vec<ImageError> {
    image.err().unwrap_or_default()
}

fn of_image(error: &ImageError, places: &Places) -> Problem {
    places.problem("rack.image", "rack.image", error.to_string())
}

/// With the place in the configuration of what names the thing that is wrong.
fn placed(error: &RackError, config: &Config, places: &Places) -> Problem {
    match error {
        RackError::Image(error) => of_image(error, places),
        RackError::WebService(error) => {
            let key = "webservice.credentials";
            places.problem(key, key, error.to_string())
        }
        RackError::Driver {
            slot,
            table,
            index,
            mistake,
        } => {
            let mut slots = config.slots.iter();
            let number = slots.position(|known| known.name.get_ref() == slot);
            let number = number.unwrap_or_default();
            let index = index.map_or_else(String::new, |index| format!(".{index}"));
            let key = &mistake.key;
            let at = format!("slot.{number}.{table}{index}.{key}");
            let text = format!("slot {slot}: {}", mistake.text);
            places.problem(&at, &format!("slot.{table}.{key}"), text)
        }
        other => places.problem("rack", "", other.to_string()),
    }
}
