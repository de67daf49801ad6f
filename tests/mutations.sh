#!/bin/sh
# Turns off one guard at a time, in a copy of the sources, and expects at least one test to fail: guards of the rules, of
# the ledger, of what a mark means, and of the gate.
#
#   tests/mutations.sh [NAME]      a mutant that no test notices ends it with 1
#   MUTANTS=N tests/mutations.sh   N of them only, others each day, so that all have their turn
#
# Each mutant is: name | file | text | what stands there instead | tests, cases of rules unless said | what is built, the
# library unless said. The text must be there: a mutant that changes nothing is a mistake of this script, and said so.
#
# What is built goes to a target directory of the copy. In the tree's own, Cargo gives a crate of the copy the same names:
# a mutant would take the place of the tree's `crieur`, and might count as fresh there. Only what others wrote is taken
# over: their libraries as links, which are replaced and never written into, the notes about them as copies.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
copy="$root/target/mutations"
parts="Cargo.toml Cargo.lock README.md README.fr.md src tests systemd sql docs lua clients"
mkdir -p "$copy"
only=${1:-}
survived=0
mutants=$(grep -c '^try ' "$0")
step=$(( (mutants + ${MUTANTS:-$mutants} - 1) / ${MUTANTS:-$mutants} ))
turn=$(( $(date +%s) / 86400 % step ))
count=0
tree=${CARGO_TARGET_DIR:-$root/target}
export CARGO_TARGET_DIR="$copy/target"
rm -rf "$copy/target"
if [ -d "$tree/debug/deps" ]; then
    built="$copy/target/debug"
    mkdir -p "$built/deps" "$built/build" "$built/.fingerprint"
    (cd "$tree/debug" && find deps -name 'lib*' ! -name 'libcrieur*' -exec cp -l {} "$built/deps" \;)
    (cd "$tree/debug" && find build .fingerprint -mindepth 1 -maxdepth 1 ! -name 'crieur*' -exec cp -a --parents {} "$built" \;)
fi
# No mutant stays, nor what was built of it: only what tests said.
trap 'rm -rf "$copy/target"; (cd "$copy" && rm -rf $parts)' EXIT
trap 'exit 1' INT TERM HUP
# The servers of tests/setup.sh, where tests look for them.
mkdir -p "$copy/target"
ln -sfn "$root/target/servers" "$copy/target/servers"

# Every file is new to Cargo: what a mutant before this one changed is built again, too.
fresh() {
    (cd "$copy" && rm -rf $parts)
    (cd "$root" && tar -c --exclude='clients/*/node_modules' --exclude='clients/*/target' $parts) | tar -x -m -C "$copy"
}

try() {
    name=$1 file="$copy/src/$2" from=$3 into=$4 tests=${5:-rules::cases} build=${6:---lib}
    count=$((count + 1))
    [ -z "$only" ] || [ "$only" = "$name" ] || return 0
    [ -n "$only" ] || [ $((count % step)) -eq "$turn" ] || return 0
    fresh
    FROM=$from INTO=$into perl -0pi -e 's/\Q$ENV{FROM}\E/$ENV{INTO}/ or die "not found\n"' "$file" 2>/dev/null
    if cmp -s "$file" "$root/src/$2"; then
        echo "BROKEN    $name: its text is not in src/$2"
        survived=1
        return 0
    fi
    touch "$file"
    log="$copy/$name.log"
    if ! (cd "$copy" && cargo test $build --no-run) > "$log" 2>&1; then
        echo "BROKEN    $name: does not compile, see target/mutations/$name.log"
        survived=1
    elif (cd "$copy" && cargo test $build "$tests") >> "$log" 2>&1; then
        echo "SURVIVED  $name"
        survived=1
    else
        echo "caught    $name by $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | tr '\n' ' ')"
    fi
}

try escaping      glob.rs        'if SPECIAL.contains(&byte)' 'if SPECIAL.is_empty()'
try old-image     rules/plan/mod.rs   'if old_meets && (!new_meets || key.reads_changed(&update))' 'if old_meets && false'
try new-image     rules/plan/mod.rs   'if new_meets {' 'if new_meets && false {'
try null          rules/plan/render.rs      'Piece::Value(Value::Null) => return false,' 'Piece::Value(Value::Null) => {}'
try or            rules/value/reading.rs     'self.or.as_ref().map_or(Made::Null' 'None::<&Vec<u8>>.map_or(Made::Null'
try ignore        rules/plan/mod.rs   '.is_some_and(|counting| !counting.meets(changed))' '.is_some_and(|counting| false && !counting.meets(changed))'
try ignore-old    rules/plan/columns.rs     'Old::Key(old) => self.compared(&self.outside' 'Old::Key(old) => self.compared(&self.lacking'
try condition     rules/plan/mod.rs   'rule.when.is_none_or(' 'rule.when.filter(|_| false).is_none_or('
try unknown       rules/value/condition.rs   'Value::Unknown => Possible::ANY,' 'Value::Unknown => Possible::FALSE,'
try sql-null      rules/value/condition.rs   '(Value::Null, _) | (_, Value::Null) => Possible::NULL,' '(Value::Null, _) | (_, Value::Null) => Possible::FALSE,'
try changed       rules/plan/compile.rs   'let changed = rule.changed.as_ref().map(' 'let changed = rule.changed.as_ref().filter(|_| false).map('
try changed-old   rules/plan/mod.rs   'old != new || old == Value::Unknown' 'old != new && old != Value::Unknown'
try lookups       rules/plan/mod.rs   'return lookup::encode(key.family, arguments, values, tx, &mut out.lookups);' 'let _ = (arguments, values); return;'
try lookup-values rules/plan/lookup.rs      'Some(Answer::Refused(_) | Answer::Late(_)) | None => entry.render(rules, key.family, None, txs, out),' 'Some(Answer::Refused(_) | Answer::Late(_)) | None => {}'
try toast         rules/plan/images.rs      '*new = *old;' '_ = old;'
try identity      rules/plan/images.rs      'if !matches!(old, Old::Full(_)) {' 'if false {'
try truncate      rules/plan/mod.rs   'Emptied::Family(pattern) => out.patterns.insert(pattern, key.family, tx)' 'Emptied::Family(_) => false'
try protect       rules/plan/render.rs      'if protect.iter().any(|pattern| glob::matches(pattern, key.bytes())) {' 'if protect.len() > 999 {'
try json-last     rules/value/json.rs        'found = Some(inner);' 'found = found.or(Some(inner));'
try json-end      rules/value/json.rs        'count.checked_sub(from_end)' 'None.filter(|_: &usize| count > from_end)'
try collation     rules/value/condition.rs   '(left == right || left.is_empty() || right.is_empty()).then(' 'true.then('
try locale        rules/value/like.rs        'a == b || (a.eq_ignore_ascii_case(&b)' 'may_be_alike(a, b) || (a.eq_ignore_ascii_case(&b)'
try real          rules/value/condition.rs   '(each == [both; 2]).then_some(both)' '(each.len() == 2).then_some(both)'
try double        rules/value/condition.rs   '701 => Kind::Double,' '701 => Kind::Number,'
try companions    rules/read/keyspec.rs     'let followed = if parts.last()' 'let companions = &companions[..0]; let followed = if parts.last()'
try one-verdict   rules/plan/verdict.rs     'if !reads.meets(changed) =>' 'if !reads.meets(changed) || true =>'
try like-before   rules/plan/mod.rs   'if *changed != update.changed {' 'if concerned.is_empty() {'
try toast-same    rules/plan/columns.rs     'new != Value::Unknown && ' ''
try lacking       rules/plan/columns.rs     'lacking.insert(count);' '_ = &lacking;'
try exponent      rules/value/number.rs      '(digits.starts_with(b"0.000000"))' 'false'
try part-out      ledger/window.rs    'span.out > 0 || (span.echoes > 0' 'span.out > 1 || (span.echoes > 0' ledger
try echo-out      ledger/window.rs    '|| (span.echoes > 0 && held_back(upto))' '|| (span.echoes > 9 && held_back(upto))' ledger
try barrier       ledger/window.rs    'if self.spans.iter().take(upto).any(|span| is_out(span, self.confirmed)) {' 'if upto > 999 {' ledger
try withdrawn     ledger/window.rs    'self.confirmed = None;' '' ledger
try ack-back      ledger/window.rs    'self.confirmed = self.confirmed.max(Some(ack));' 'self.confirmed = Some(ack);' ledger
# No mutant for `idle` joining a span whose echoes are out: the position behind such a span is given on with it either way.
try oldest        ledger/window.rs    'self.answered = self.answered.min(id.0);' '' ledger
try joined        ledger/window.rs    'self.answered = self.answered.min(id);' '' ledger
try joined-barrier ledger/window.rs   'last.is_barrier = false;' '' ledger
try lost-ticket   ledger/mod.rs       'lost.set(lost.get() + 1);' '' ledger
try least         ledger/hold.rs      'holding.min().unwrap_or_else' 'holding.max().unwrap_or_else' ledger
try ring-forgot   target/ring.rs      'self.forgotten.is_none_or(|forgotten| forgotten < first).then_some(first)' 'Some(first)' target::ring
try answers-past  feed/answers.rs     '&& self.past == Past::Over' '' feed::answers
try lineage       cache/continuity.rs 'if self.another != before.another {' 'if false {' cache::continuity
try mark-missing  mark.rs             'else { return Some(Gap::Missing) }' 'else { return None }' mark
try mark-system   mark.rs             'mark.timeline != start.timeline || ' '' mark
try mark-database mark.rs             '} else if mark.system != start.system {' '} else if false {' mark
try mark-behind   mark.rs             'lsn < start.confirmed {' 'lsn <= start.confirmed {' mark
try mark-new-slot mark.rs             'lsn == start.confirmed && start.slot' 'lsn > start.confirmed && start.slot' mark
try mark-run      mark.rs             '} else if mark.run != start.run {' '} else if false {' mark
try mark-rules    mark.rs             '} else if !holds(&mark.rules, rules) {' '} else if false {' mark
try proof-moved   target/proof.rs     '(Slot::MovedOn, _, _, Some(gap)) => Meaning::Sweep(gap),' '' target::proof
try proof-behind  target/proof.rs     'Some(gap)) if !is_behind =>' 'Some(gap)) if is_behind =>' target::proof
try proof-same    target/proof.rs     '(_, Fit::Ours, Continuity::Same, _) => Meaning::Holds' '(_, Fit::Ours, Continuity::Same | Continuity::Another, _) => Meaning::Holds' target::proof
try proof-unmoved target/proof.rs     '(_, Fit::Unmoved, Continuity::Same | Continuity::Unknown, _)' '(_, Fit::Unmoved, _, _)' target::proof
try mark-elder    mark.rs             '&& mark.timeline < start.timeline' '' mark
try verify-bill   cache/health.rs     'payer.bill(commands);' '' cache::health
try verify-lease  verify/compare.rs   'cached.starts_with(b"L") &&' '' verify::compare
try verify-budget budget.rs           'let verifier = f64::from(self.verifier) / 60.0;' 'let verifier = 0.0;' budget
try proof-tables  target/proof.rs     'gap == Some(Gap::OtherTables) && !is_ours' 'false' target::proof
try mark-era      target/confirm.rs   'find_map(|ack| stream.place(ack))' 'find_map(|ack| Some(stream.lsn(ack?)))' target::confirm
# What only the whole loop shows: its simulation, with one cache and with several, and when a table is left out. With the
# feature a schedule is the same in each run.
loop="simulation::no_schedule" whole="--features failpoints --test main"
try loop-answered target/marking.rs   'self.answered = self.answered.max(ack);' '_ = ack;' "$loop" "$whole"
try loop-withdraw target/marking.rs   'self.answered.take()' 'self.answered' "$loop" "$whole"
try loop-reading  target/confirm.rs   'return Ok(()); // Whether something' '// Whether something' "$loop" "$whole"
try loop-beat     target/confirm.rs   'Held::Trusted(_) => !self.ledger.is_mending(),' 'Held::Trusted(_) => true,' "$loop" "$whole"
try loop-behind   target/mod.rs       'altered || is_behind' 'altered' "$loop" "$whole"
try loop-proven   target/proof.rs     'Some(Gap::Behind { mark, .. })) => Some(*mark),' 'Some(Gap::Behind { .. })) => Some(start),' "$loop" "$whole"
try loop-unseen   target/look.rs      'self.start = None;' '(self.start, self.moved_on, self.is_made) = (None, false, false);' "$loop" "$whole"
try loop-lineage  target/gap.rs       'if self.cache.lineage() != self.look.lineage() && !self.look.is_reading() {' 'if false {' "$loop" "$whole"
try loop-put-off  target/gap.rs       'Some(lacking) => self.replay(lacking),' 'Some(_) => {}' simulation::nameless "$whole"
try loop-carried  target/gap.rs       'let ticket = self.ledger.open_barrier(self.marking.withdraw());
        let delivery' 'let ticket = self.ledger.open_or_join(None);
        let delivery' "$loop" "$whole"
try loop-others   run/mod.rs          'target.take_in((*load).clone(), upto, born)' '_ = target' "$loop" "$whole"
try loop-sweep    run/mod.rs          'target.take_untold((*untold).clone())' '_ = target' simulation::untold "$whole"
# The readers' crate and the scripts, on real servers.
client='--features failpoints --test live'
try client-join-by-key  ../clients/rust/src/flight.rs 'begun == 0 || begun > called' 'begun == 0 || begun > called || called > 0' client:: "$client"
try client-no-compare   ../lua/store-in-key.lua '~= ARGV[1] then return 0 end' "== 'x' then return 0 end" client:: "$client"
try client-no-give-back ../clients/rust/src/inner.rs 'if !lease.is_empty() {' 'if lease.is_empty() {' client:: "$client"
try client-no-timeout   ../clients/rust/src/server.rs 'tokio::time::timeout(self.timeout, asked)' 'tokio::time::timeout(self.timeout * 100, asked)' client:: "$client"
try client-free-anyone  ../lua/give-back.lua '~= ARGV[1] then return 0 end' "== 'x' then return 0 end" leases:: "$client"
try client-resends      ../clients/rust/src/options.rs 'self.settings.take = Take::Script;' '' client:: "$client"
try client-never-anew   ../clients/rust/src/server.rs 'if is_broken {' 'if is_broken && false {' client:: "$client"
exit $survived
