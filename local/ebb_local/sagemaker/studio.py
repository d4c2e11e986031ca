"""Studio: domains, user profiles, spaces and apps, as records whose statuses take their time. No app runs behind them.

An app's LastUserActivityTimestamp is when it came into service or when `Ebb.UseApp` said that somebody used it; on AWS
health checks may move it as well. A deleted app is listed as Deleted for a day.
Sources: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateApp.html and its neighbours; the order in
which things may be deleted: https://docs.aws.amazon.com/sagemaker/latest/dg/gs-studio-delete-domain.html (wordings and
times assumed).
"""

import uuid
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_region

from ebb_local.sagemaker import listing, roles, state, tags, transitions
from ebb_local.sagemaker.errors import ServiceError, not_implemented, validation_exception

_PENDING_S, _DELETING_S, _REMEMBERED_S = 20.0, 20.0, 86_400.0
_DOMAIN = ["DomainArn", "DomainId", "DomainName", "Status", "CreationTime", "LastModifiedTime", "Url"]
_PROFILE = ["DomainId", "UserProfileName", "Status", "CreationTime", "LastModifiedTime"]
_APP = ["DomainId", "UserProfileName", "SpaceName", "AppType", "AppName", "Status", "CreationTime", "ResourceSpec"]
_SPACE = ["DomainId", "SpaceName", "Status", "CreationTime", "LastModifiedTime", "SpaceSettingsSummary",
          "SpaceSharingSettingsSummary", "OwnershipSettingsSummary", "SpaceDisplayName"]  # fmt: skip


def create_domain(request: dict[str, Any]) -> dict[str, Any]:
    """CreateDomain."""
    number = f"d-{uuid.uuid4().hex[:12]}"
    arn = state.arn("domain", number)
    tags.require_tagging(arn, request)
    settings = request["DefaultUserSettings"]
    if not settings.get("ExecutionRole"):
        raise validation_exception("ExecutionRole is required in DefaultUserSettings.")
    roles.require_role(settings["ExecutionRole"])
    if any(record["DomainName"] == request["DomainName"] for record in state.domains.values()):
        raise validation_exception(f"Domain {request['DomainName']} already exists in this account and Region.")
    url = f"https://{number}.studio.{get_region()}.sagemaker.aws"
    _add(state.domains, number, arn, request, DomainId=number, DomainArn=arn, Url=url)
    return {"DomainArn": arn, "DomainId": number, "Url": url}


def create_user_profile(request: dict[str, Any]) -> dict[str, Any]:
    """CreateUserProfile."""
    domain, name = _domain(request["DomainId"]), request["UserProfileName"]
    arn = state.arn("user-profile", f"{domain}/{name}")
    tags.require_tagging(arn, request)
    role_arn = (request.get("UserSettings") or {}).get("ExecutionRole")
    if role_arn:
        roles.require_role(role_arn)
    _require_new(state.user_profiles, f"{domain}/{name}", arn)
    _add(state.user_profiles, f"{domain}/{name}", arn, request, UserProfileArn=arn)
    return {"UserProfileArn": arn}


def create_space(request: dict[str, Any]) -> dict[str, Any]:
    """CreateSpace."""
    domain, name = _domain(request["DomainId"]), request["SpaceName"]
    arn = state.arn("space", f"{domain}/{name}")
    tags.require_tagging(arn, request)
    owner = (request.get("OwnershipSettings") or {}).get("OwnerUserProfileName")
    if bool(owner) != bool(request.get("SpaceSharingSettings")):
        raise validation_exception("OwnershipSettings and SpaceSharingSettings are needed together.")
    if owner:
        _find(state.user_profiles, f"{domain}/{owner}", "UserProfile")
    _require_new(state.spaces, f"{domain}/{name}", arn)
    settings = request.get("SpaceSettings") or {}
    _add(state.spaces, f"{domain}/{name}", arn, request, SpaceArn=arn,
         SpaceSettingsSummary={key: settings[key] for key in ("AppType", "SpaceStorageSettings") if key in settings},
         SpaceSharingSettingsSummary=request.get("SpaceSharingSettings"),
         OwnershipSettingsSummary=request.get("OwnershipSettings"))  # fmt: skip
    return {"SpaceArn": arn}


def create_app(request: dict[str, Any]) -> dict[str, Any]:
    """CreateApp."""
    key = _app_key(request)
    arn = app_arn(request)
    tags.require_tagging(arn, request)
    if request.get("SpaceName"):
        _find(state.spaces, f"{request['DomainId']}/{request['SpaceName']}", "Space")
    else:
        _find(state.user_profiles, f"{request['DomainId']}/{request['UserProfileName']}", "UserProfile")
    found = state.apps.get(key)
    if found is not None and found["Status"] != "Deleted":
        raise ServiceError("ResourceInUse", f"App with identifier {arn} already exists.")
    _add(state.apps, key, arn, request, AppArn=arn)
    return {"AppArn": arn}


def describe_domain(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeDomain."""
    return state.public(_find(state.domains, request["DomainId"], "Domain"))


def describe_user_profile(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeUserProfile."""
    return state.public(
        _find(state.user_profiles, f"{request['DomainId']}/{request['UserProfileName']}", "UserProfile")
    )


def describe_space(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeSpace."""
    found = state.public(_find(state.spaces, f"{request['DomainId']}/{request['SpaceName']}", "Space"))
    return {key: value for key, value in found.items() if not key.endswith("Summary")}


def describe_app(request: dict[str, Any]) -> dict[str, Any]:
    """DescribeApp."""
    found = state.public(_find(state.apps, _app_key(request), "App"))
    return {key: value for key, value in found.items() if key != "LastModifiedTime"}


def list_domains(request: dict[str, Any]) -> dict[str, Any]:
    """ListDomains."""
    rows, more = listing.page(state.domains.values(), request, name="DomainName", members=_DOMAIN)
    return {"Domains": rows, **more}


def list_user_profiles(request: dict[str, Any]) -> dict[str, Any]:
    """ListUserProfiles."""
    rows, more = _page(state.user_profiles, request, "UserProfileName", _PROFILE)
    return {"UserProfiles": rows, **more}


def list_spaces(request: dict[str, Any]) -> dict[str, Any]:
    """ListSpaces."""
    rows, more = _page(state.spaces, request, "SpaceName", _SPACE)
    return {"Spaces": rows, **more}


def list_apps(request: dict[str, Any]) -> dict[str, Any]:
    """ListApps."""
    rows, more = _page(state.apps, request, "AppName", _APP)
    return {"Apps": rows, **more}


def delete_app(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteApp."""
    record = _find(state.apps, _app_key(request), "App")
    if record["Status"] in ("Deleting", "Deleted"):
        raise validation_exception(f"App {record['AppArn']} cannot be deleted in status {record['Status']}.")
    state.update(record, Status="Deleting")
    transitions.start(record, _DELETING_S, Status="Deleted")
    return {}


def delete_space(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteSpace. It must have no app."""
    record = _find(state.spaces, f"{request['DomainId']}/{request['SpaceName']}", "Space")
    return _delete(record, SpaceName=request["SpaceName"])


def delete_user_profile(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteUserProfile. It must have no app and own no space."""
    name = request["UserProfileName"]
    record = _find(state.user_profiles, f"{request['DomainId']}/{name}", "UserProfile")
    for space in state.spaces.values():
        if (space.get("OwnershipSettings") or {}).get("OwnerUserProfileName") == name:
            raise ServiceError("ResourceInUse", f"User profile {name} owns space {space['SpaceName']}.")
    return _delete(record, UserProfileName=name)


def delete_domain(request: dict[str, Any]) -> dict[str, Any]:
    """DeleteDomain. It must hold nothing."""
    number = request["DomainId"]
    record = _find(state.domains, number, "Domain")
    if (request.get("RetentionPolicy") or {}).get("HomeEfsFileSystem") == "Retain":
        raise not_implemented("DeleteDomain with a retained file system")
    for store in (state.user_profiles, state.spaces):
        if any(held["DomainId"] == number for held in store.values()):
            raise ServiceError("ResourceInUse", f"Domain {number} still has user profiles or spaces.")
    return _delete(record, DomainId=number)


def use_app(request: dict[str, Any]) -> dict[str, Any]:
    """Ebb.UseApp `{"DomainId", "SpaceName" | "UserProfileName", "AppType", "AppName"}`: somebody works in it now."""
    record = _find(state.apps, _app_key(request), "App")
    moment = state.now()
    state.update(record, LastUserActivityTimestamp=moment, LastHealthCheckTimestamp=moment)
    return {}


def reached(record: state.Record) -> None:
    """Look after what has come to its next status."""
    if "AppArn" in record:
        if record["Status"] == "InService":
            moment = state.now()
            state.update(record, LastUserActivityTimestamp=moment, LastHealthCheckTimestamp=moment)
        elif record["Status"] == "Deleted" and not record.get("_forgotten"):
            tags.forget(record["AppArn"])
            state.update(record, _forgotten=True)
            transitions.start(record, _REMEMBERED_S, gone=True)
    elif record["Status"] == "Deleting":
        tags.forget(next(record[key] for key in ("SpaceArn", "UserProfileArn", "DomainArn") if key in record))


def app_arn(request: dict[str, Any]) -> str:
    """Return the ARN of the app that a request names."""
    owner = request.get("SpaceName") or request.get("UserProfileName")
    return state.arn("app", f"{request['DomainId']}/{owner}/{request['AppType']}/{request['AppName']}")


def _add(store: AccountRegionScopedDict, key: str, arn: str, request: dict[str, Any], **members: Any) -> None:
    moment = state.now()
    store[key] = record = {
        **{name: value for name, value in request.items() if name != "Tags"},
        **members,
        "Status": "Pending",
        "CreationTime": moment,
        "LastModifiedTime": moment,
    }
    tags.put(arn, request.get("Tags"))
    transitions.start(record, _PENDING_S, Status="InService")


def _delete(record: state.Record, **held_by: str) -> dict[str, Any]:
    wanted = {"DomainId": record["DomainId"], **held_by}
    for app in state.apps.values():
        if app["Status"] != "Deleted" and all(app.get(member) == value for member, value in wanted.items()):
            raise ServiceError("ResourceInUse", f"App {app['AppArn']} is still there. Delete it first.")
    state.update(record, Status="Deleting", LastModifiedTime=state.now())
    transitions.start(record, _DELETING_S, gone=True)
    return {}


def _page(
    store: AccountRegionScopedDict, request: dict[str, Any], name: str, members: list[str]
) -> tuple[list[state.Record], dict[str, Any]]:
    filters = ("DomainId", "UserProfileName", "SpaceName")
    found = [
        record
        for record in store.values()
        if all(request.get(f"{member}Equals", record.get(member)) == record.get(member) for member in filters)
    ]
    asked = {**request, "NameContains": request.get(f"{name}Contains", "")}
    return listing.page(found, asked, name=name, status="Status", members=members)


def _domain(number: str) -> str:
    return _find(state.domains, number, "Domain")["DomainId"]


def _find(store: AccountRegionScopedDict, key: str, kind: str) -> state.Record:
    record = store.get(key)
    if record is None:
        raise ServiceError("ResourceNotFound", f"{kind} {key} does not exist.")
    return record


def _require_new(store: AccountRegionScopedDict, key: str, arn: str) -> None:
    if key in store:
        raise ServiceError("ResourceInUse", f"{arn} already exists.")


def _owner(request: dict[str, Any]) -> str:
    given = [member for member in ("UserProfileName", "SpaceName") if request.get(member)]
    if len(given) != 1:
        raise validation_exception("Exactly one of UserProfileName and SpaceName must be specified.")
    return given[0]


def _app_key(request: dict[str, Any]) -> str:
    owner = _owner(request)
    return f"{request['DomainId']}/{owner}/{request[owner]}/{request['AppType']}/{request['AppName']}"


for _store in (state.domains, state.user_profiles, state.spaces, state.apps):
    transitions.register(_store, reached)
