"""What holds a process within a device's size: one file a mechanism, all with the face of `edge.devices.limits.mechanism.Mechanism`."""
