"""The built-in rewards, one file each; installed as the import package `posttrain_rewards`."""
