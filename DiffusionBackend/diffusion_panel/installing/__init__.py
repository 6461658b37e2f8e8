"""Installing what the engine needs beyond Slicer's own packages, without touching these.

* torch comes from the PyTorch extension where that is there and may write into Slicer's Python (`torch_extension`).
  Everything else, and torch otherwise, goes into a numbered folder of our own below the user's home folder. So a Slicer
  that can't be written to works as well, and so does a repair while an engine still has the old files open.
* pip resolves first against Slicer's Python with Slicer's versions of PROTECTED as constraints (`commands.plan`). What
  Slicer has in a version that fits is thereby left out; the rest is installed without dependencies. A plan with a
  protected package is refused.
* Only the engine's process sees the folder: `process.environment` puts it in front of Slicer's packages. In front,
  because it holds nothing but what Slicer lacks or has in a version that doesn't fit: an old torch stays where it is.
  A virtual environment isn't used: Slicer's Python is reached through a launcher, and such an environment would
  either miss SimpleITK, numpy and scipy or see all that Slicer has anyway.
* An installation counts from the moment its record is written, which happens last: after pip has ended well and the
  engine has imported the packages and convolved in a process of its own. Before that it is as if it weren't there.
* `slicer.packaging` (Slicer 5.12) is asked whether it installs at the moment. Its `pip_ensure` isn't used: it installs
  into Slicer's own packages, can't be cancelled, and does nothing in testing mode.
"""
