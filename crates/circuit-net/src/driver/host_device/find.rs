//! Which of the host's devices is meant: by its name, its hardware address, or
//! its place in `/sys`.

use std::fs;
use std::path::{Path, PathBuf};

use circuit_core::cni::{ErrorReport, code};

use crate::driver::verify::look_up;
use crate::driver::{Answer, Call, Options};
use crate::netlink::{Link, Mac, links};

/// Drivers that leave a device to a program: it has no interface.
const USERSPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// What names a device. The first one that is there counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    device: Option<String>,
    hwaddr: Option<String>,
    kernelpath: Option<String>,
    pci: Option<String>,
    auxiliary: Option<String>,
}

impl Named {
    pub(super) fn read(call: &Call<'_>) -> Answer<Self> {
        Self::read_in(call, Path::new("/sys"))
    }

    fn read_in(call: &Call<'_>, sys: &Path) -> Answer<Self> {
        let options = Options::new(call.config);
        let text = |key| Ok::<_, ErrorReport>(options.text(key)?.map(str::to_owned));
        let mut named = Self {
            device: text("device")?,
            hwaddr: text("hwaddr")?,
            kernelpath: text("kernelpath")?,
            pci: text("pciBusID")?,
            auxiliary: None,
        };
        if let Some(runtime) = options.object("runtimeConfig")?
            && let Some(id) = Options::at(runtime, "runtimeConfig").text("deviceID")?
        {
            named.assign(id, sys)?;
        }
        if named == Self::default() {
            return Err(invalid(
                "name the device by device, hwaddr, kernelpath or pciBusID",
            ));
        }
        for id in named.pci.iter().chain(&named.auxiliary) {
            check_id(id)?;
        }
        Ok(named)
    }

    /// A device that the runtime has assigned takes the place of `pciBusID`.
    fn assign(&mut self, id: &str, sys: &Path) -> Answer<()> {
        check_id(id)?;
        if pci(sys, id).exists() {
            self.pci = Some(id.to_owned());
        } else if auxiliary(sys, id).exists() {
            (self.pci, self.auxiliary) = (None, Some(id.to_owned()));
        } else {
            return Err(invalid(format!(
                "runtimeConfig.deviceID {id} is no pci device and no auxiliary one"
            )));
        }
        Ok(())
    }

    /// The device's name, or a further one, if it is named so.
    pub(super) fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Whether the device is named by its place among real ones.
    pub(super) fn is_real(&self) -> bool {
        let by_name = self.device.is_some() || self.hwaddr.is_some();
        let place = match &self.kernelpath {
            Some(path) => !path.starts_with("/sys/devices/virtual"),
            None => self.pci.is_some() || self.auxiliary.is_some(),
        };
        !by_name && place
    }

    /// Whether the device is left to a program.
    pub(super) fn is_userspace(&self) -> Answer<bool> {
        self.is_userspace_in(Path::new("/sys"))
    }

    fn is_userspace_in(&self, sys: &Path) -> Answer<bool> {
        let Some(id) = &self.pci else {
            return Ok(false);
        };
        let driver = fs::canonicalize(pci(sys, id).join("driver"))
            .map_err(|e| invalid(format!("pci device {id} has no driver: {e}")))?;
        let name = driver.file_name().and_then(|name| name.to_str());
        Ok(name.is_some_and(|name| USERSPACE.contains(&name)))
    }

    /// The device's interface on the host.
    pub(super) fn find(&self, call: &Call<'_>) -> Answer<Link> {
        let name = match (&self.device, &self.hwaddr) {
            (Some(name), _) => name.clone(),
            (None, Some(mac)) => return by_mac(mac),
            (None, None) => self.name_in(Path::new("/sys"))?,
        };
        look_up(&mut *call.host()?, &name)?
            .ok_or_else(|| invalid(format!("device {name} is no interface of the host")))
    }

    /// The name of the interface at a place in `/sys`.
    fn name_in(&self, sys: &Path) -> Answer<String> {
        if let Some(path) = &self.kernelpath {
            let inside = path.strip_prefix("/sys/devices/");
            let inside = inside.filter(|path| !path.split('/').any(|part| part == ".."));
            let inside = inside.ok_or_else(|| {
                invalid(format!("kernelpath {path} is no path under /sys/devices/"))
            })?;
            return first_in(&sys.join("devices").join(inside).join("net"));
        }
        if let Some(id) = &self.pci {
            let own = pci(sys, id).join("net");
            if own.symlink_metadata().is_ok() {
                return first_in(&own);
            }
            let virtio = entries(&pci(sys, id))
                .into_iter()
                .find(|name| name.starts_with("virtio"));
            return match virtio {
                Some(name) => first_in(&pci(sys, id).join(name).join("net")),
                None => Err(invalid(format!("pci device {id} has no interface"))),
            };
        }
        let id = self.auxiliary.as_deref().unwrap_or_default();
        first_in(&auxiliary(sys, id).join("net"))
    }
}

fn by_mac(text: &str) -> Answer<Link> {
    // Those of other lengths are compared as they are written.
    let wanted = match text.parse::<Mac>() {
        Ok(mac) => mac.to_string(),
        Err(_) => text.to_ascii_lowercase().replace('-', ":"),
    };
    let mut all = links(None)?.into_iter();
    all.find(|link| link.mac.as_deref() == Some(&*wanted))
        .ok_or_else(|| invalid(format!("no interface of the host has hwaddr {text}")))
}

fn pci(sys: &Path, id: &str) -> PathBuf {
    sys.join("bus/pci/devices").join(id)
}

fn auxiliary(sys: &Path, id: &str) -> PathBuf {
    sys.join("bus/auxiliary/devices").join(id)
}

/// An id is part of a path.
fn check_id(id: &str) -> Answer<()> {
    if id.contains('/') || id.starts_with('.') {
        return Err(invalid(format!("{id:?} is no device's id")));
    }
    Ok(())
}

/// The first interface in a folder of `/sys`.
fn first_in(dir: &Path) -> Answer<String> {
    let first = entries(dir).into_iter().next();
    first.ok_or_else(|| invalid(format!("no interface is in {}", dir.display())))
}

/// The names in a folder, sorted; none when it cannot be read.
fn entries(dir: &Path) -> Vec<String> {
    let read = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = read
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn invalid(text: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code::INVALID_CONFIG, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A `/sys` with devices of every kind.
    fn sys() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(dir.path().join(path)).unwrap();
        make("bus/pci/drivers/ixgbe");
        make("bus/pci/drivers/vfio-pci");
        make("bus/pci/devices/0000:01:00.0/net/ens1");
        make("bus/pci/devices/0000:01:00.0/net/ens0");
        make("bus/pci/devices/0000:02:00.0/virtio3/net/ens2");
        make("bus/pci/devices/0000:03:00.0");
        make("bus/auxiliary/devices/mlx5_core.sf.4/net/sf4");
        make("devices/pci0000:00/0000:01:00.0/net/ens1");
        for (id, driver) in [
            ("0000:01:00.0", "ixgbe"),
            ("0000:02:00.0", "ixgbe"),
            ("0000:03:00.0", "vfio-pci"),
        ] {
            let device = dir.path().join("bus/pci/devices").join(id);
            symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
        }
        dir
    }

    fn at_pci(id: &str) -> Named {
        Named {
            pci: Some(id.to_owned()),
            ..Named::default()
        }
    }

    #[test]
    fn places_lead_to_names() {
        let sys = sys();
        let name = |named: &Named| named.name_in(sys.path());
        assert_eq!(name(&at_pci("0000:01:00.0")).unwrap(), "ens0");
        assert_eq!(name(&at_pci("0000:02:00.0")).unwrap(), "ens2");
        assert!(name(&at_pci("0000:03:00.0")).is_err());
        assert!(name(&at_pci("0000:09:00.0")).is_err());
        let at_path = |path: &str| Named {
            kernelpath: Some(path.to_owned()),
            ..Named::default()
        };
        let path = at_path("/sys/devices/pci0000:00/0000:01:00.0");
        assert_eq!(name(&path).unwrap(), "ens1");
        for path in ["/sys/class/net", "devices/x", "/sys/devices/../class"] {
            let error = name(&at_path(path)).unwrap_err();
            assert!(error.msg.contains("under /sys/devices/"), "{}", error.msg);
        }
    }

    #[test]
    fn a_place_tells_what_is_real() {
        let at_path = |path: &str| Named {
            kernelpath: Some(path.to_owned()),
            ..Named::default()
        };
        let named = |named: Named| Named {
            device: Some("ens1".to_owned()),
            ..named
        };
        assert!(at_pci("0000:01:00.0").is_real());
        assert!(at_path("/sys/devices/pci0000:00/0000:01:00.0").is_real());
        assert!(!at_path("/sys/devices/virtual").is_real());
        assert!(!at_path("/sys/devices/virtual/").is_real());
        // By its name another one may have been meant.
        assert!(!named(at_pci("0000:01:00.0")).is_real());
        assert!(!Named::default().is_real());
    }

    #[test]
    fn an_assigned_device_takes_the_place_of_another() {
        let sys = sys();
        let mut named = at_pci("0000:01:00.0");
        named.assign("0000:02:00.0", sys.path()).unwrap();
        assert_eq!(named, at_pci("0000:02:00.0"));
        named.assign("mlx5_core.sf.4", sys.path()).unwrap();
        assert_eq!(named.name_in(sys.path()).unwrap(), "sf4");
        assert!(named.assign("0000:0a:00.0", sys.path()).is_err());
        assert!(named.assign("../pci/devices", sys.path()).is_err());
    }

    #[test]
    fn devices_of_programs_are_known_by_their_driver() {
        let sys = sys();
        let is_userspace = |id| at_pci(id).is_userspace_in(sys.path());
        assert!(!is_userspace("0000:01:00.0").unwrap());
        assert!(is_userspace("0000:03:00.0").unwrap());
        assert!(is_userspace("0000:09:00.0").is_err());
        assert!(!Named::default().is_userspace_in(sys.path()).unwrap());
    }
}
