"""A bucket made by a template gets the template's default encryption, which MiniStack leaves out.

Without it no role would ever need its key, and a missing `kms:*` permission would go unnoticed.
Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-s3-bucket-bucketencryption.html
"""

from typing import Any
from xml.etree import ElementTree

from ministack.services import s3
from ministack.services.cloudformation import provisioners


def install() -> None:
    """Add BucketEncryption to the properties that are stored through the S3 API, at creation and at updates."""
    encryption = ("BucketEncryption", _as_xml, s3._put_bucket_encryption, s3._delete_bucket_encryption)
    provisioners._S3_BUCKET_CONFIGURATIONS = (*provisioners._S3_BUCKET_CONFIGURATIONS, encryption)


def _as_xml(encryption: dict[str, Any]) -> bytes:
    root = ElementTree.Element("ServerSideEncryptionConfiguration")
    for rule in encryption.get("ServerSideEncryptionConfiguration", []):
        element = ElementTree.SubElement(root, "Rule")
        default = ElementTree.SubElement(element, "ApplyServerSideEncryptionByDefault")
        for name, value in rule.get("ServerSideEncryptionByDefault", {}).items():
            ElementTree.SubElement(default, name).text = str(value)
        if "BucketKeyEnabled" in rule:
            enabled = str(rule["BucketKeyEnabled"]).lower()
            ElementTree.SubElement(element, "BucketKeyEnabled").text = enabled
    return ElementTree.tostring(root)
