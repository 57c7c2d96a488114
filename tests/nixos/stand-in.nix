# A small stand-in for nixpkgs' `lib`: as much of the option system as our modules use, written from its manual.
#
# What it does like the original: declared and undeclared options, types with messages, mkIf pushed down to the leaves,
# mkDefault below plain definitions, lists joined, attribute sets merged, submodules with a freeform type, assertions left to
# the caller. What it does not: anything else. It is no proof that nixpkgs takes our modules, but it finds a misspelt option,
# a wrong type, a loop, and it renders what they make.
let
  inherit (builtins)
    all any attrNames attrValues concatLists concatStringsSep elem elemAt filter foldl' fromJSON genList head isAttrs isBool
    isFunction isInt isList isString length listToAttrs map match removeAttrs split stringLength substring toJSON typeOf
    ;
  at = concatStringsSep ".";
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  mapAttrs' = f: set: listToAttrs (map (name: { inherit name; value = f name set.${name}; }) (attrNames set));
  isA = kind: value: isAttrs value && (value._type or "") == kind;

  # ---- properties: what a definition may be wrapped in ----

  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  # A value as a list of { priority, value }.
  discharge =
    value:
    if isA "if" value then
      (if value.condition then discharge value.content else [ ])
    else if isA "override" value then
      map (def: def // { inherit (value) priority; }) (discharge value.content)
    else
      [ { priority = 100; inherit value; } ];
  # The values that count: those of the strongest priority.
  strongest =
    definitions:
    let
      all = concatLists (map discharge definitions);
      best = foldl' (best: def: if def.priority < best then def.priority else best) 10000 all;
    in
    map (def: def.value) (filter (def: def.priority == best) all);
  # Conditions go from a set to its members, so that names are known before any condition is.
  pushDown =
    set:
    if isA "if" set then
      mapAttrs' (_: mkIf set.condition) (pushDown set.content)
    else if isA "override" set then
      mapAttrs' (_: mkOverride set.priority) (pushDown set.content)
    else
      set;

  # ---- types: { name, check, merge = place: values: value } ----

  refuse = place: type: value: throw "The option `${at place}' is ${show value}: it must be ${type}.";
  show = value: if isAttrs value || isFunction value then "a ${typeOf value}" else toJSON value;
  mkType =
    name: check: merge:
    let
      checked = place: values: map (value: if check value then value else refuse place name value) values;
    in
    { inherit name check; merge = place: values: merge place (checked place values); };
  same =
    place: values:
    if all (value: value == head values) values then
      head values
    else
      throw "The option `${at place}' has conflicting definitions: ${concatStringsSep ", " (map show values)}.";
  mergeSets =
    merge: place: sets:
    let
      pushed = map pushDown sets;
      names = unique (concatLists (map attrNames pushed));
      values = name: strongest (map (set: set.${name}) (filter (set: set ? ${name}) pushed));
      present = filter (name: values name != [ ]) names;
    in
    listToAttrs (map (name: { inherit name; value = merge (place ++ [ name ]) (values name); }) present);
  isPath = value: isString value && substring 0 1 value == "/" || typeOf value == "path";

  types = rec {
    bool = mkType "a boolean" isBool same;
    str = mkType "a string" isString same;
    int = mkType "an integer" isInt same;
    float = mkType "a float" builtins.isFloat same;
    path = mkType "an absolute path" isPath same;
    package = mkType "a package" (value: isAttrs value && value ? outPath || isPath value) (place: head);
    strMatching = re: mkType "a string matching ${re}" (value: isString value && match re value != null) same;
    ints.unsigned = mkType "an integer of at least 0" (value: isInt value && value >= 0) same;
    ints.positive = mkType "an integer of at least 1" (value: isInt value && value >= 1) same;
    nullOr = type: mkType "null or ${type.name}" (value: value == null || type.check value) (
      place: values: if head values == null then same place values else type.merge place values
    );
    oneOf = among: mkType (concatStringsSep " or " (map (type: type.name) among))
      (value: any (type: type.check value) among)
      (place: values: (head (filter (type: type.check (head values)) among)).merge place values);
    listOf = type: mkType "a list of ${type.name}" isList (
      place: lists:
      let joined = concatLists lists; in
      genList (i: type.merge (place ++ [ (toString i) ]) [ (elemAt joined i) ]) (length joined)
    );
    attrsOf = type: mkType "a set of ${type.name}" isAttrs (mergeSets type.merge);
    anything = mkType "anything" (_: true) (
      place: values:
      if all (value: isAttrs value && !(value ? outPath)) values then mergeSets anything.merge place values else same place values
    );
    submodule = module: mkType "a submodule" isAttrs (
      place: sets: (evalModules { modules = [ module ] ++ map (config: { inherit config; }) sets; prefix = place; }).config
    );
  };

  # ---- modules ----

  mkOption = option: option // { _type = "option"; };
  evalModules =
    { modules, specialArgs ? { }, prefix ? [ ] }:
    let
      load =
        module:
        let
          value = if isFunction module then module arguments else if isAttrs module then module else (
            let file = import module; in if isFunction file then file arguments else file
          );
          structured = value ? config || value ? options;
        in
        concatLists (map load (value.imports or [ ])) ++ [
          {
            options = value.options or { };
            freeform = value.freeformType or null;
            config = value.config or (if structured then { } else removeAttrs value [ "imports" "freeformType" ]);
          }
        ];
      arguments = specialArgs // { inherit config lib; };
      loaded = concatLists (map load modules);
      freeforms = filter (type: type != null) (map (module: module.freeform) loaded);
      freeform = if freeforms == [ ] then null else head freeforms;
      config = evaluate prefix (map (module: module.options) loaded) (map (module: module.config) loaded);

      evaluate =
        place: declarations: definitions:
        let
          pushed = map pushDown definitions;
          declared = unique (concatLists (map attrNames declarations));
          defined = unique (concatLists (map attrNames pushed));
          under = name: sets: map (set: set.${name}) (filter (set: set ? ${name}) sets);
          known = listToAttrs (map (name: {
            inherit name;
            value = member (place ++ [ name ]) (under name declarations) (under name pushed);
          }) declared);
          unknown = filter (name: !(elem name declared)) defined;
          free = mergeSets (path: values: (freeform.merge (place) [ { ${elemAt path (length path - 1)} = head values; } ]).${
            elemAt path (length path - 1)
          }) place (map (set: removeAttrs set declared) pushed);
        in
        if unknown == [ ] then
          known
        else if freeform != null && place == prefix then
          known // free
        else
          throw "The option `${at (place ++ [ (head unknown) ])}' does not exist.";
      member =
        place: declarations: definitions:
        if length declarations == 1 && isA "option" (head declarations) then
          leaf place (head declarations) (strongest definitions)
        else if any (isA "option") declarations then
          throw "The option `${at place}' is declared twice."
        else
          evaluate place declarations definitions;
      leaf =
        place: option: values:
        if values != [ ] then
          option.type.merge place values
        else if option ? default then
          option.type.merge place [ option.default ]
        else
          throw "The option `${at place}' is used but not defined.";
    in
    { inherit config; };

  lib = rec {
    inherit evalModules mkIf mkOption mkOverride types all any elem filter head unique;
    concatMap = f: list: concatLists (map f list);
    mkDefault = mkOverride 1000;
    mkEnableOption = what: mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
    optionals = condition: list: if condition then list else [ ];
    optionalString = condition: text: if condition then text else "";
    optionalAttrs = condition: set: if condition then set else { };
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    removePrefix =
      prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;
    splitString = by: text: filter isString (split "[${by}]" text);
    toList = value: if isList value then value else [ value ];
    last = list: elemAt list (length list - 1);
    toInt = text: fromJSON text;
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    inherit attrValues concatStringsSep;
  };
in
lib
