"""What every plugin keeps: `chatcore check plugin-template` tells the same of it where it is installed."""

from chatcore_plugin_template import Template

from chatcore.testing.contracts import PluginContract


class TestContract(PluginContract):
    plugin = Template
