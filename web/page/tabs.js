/** Tabs that the mouse, the arrow keys and the address (`#collect`) choose. */

/**
 * Makes the tabs work, and shows the one that the address names, or the first.
 * @param {(name: string) => void} onChange is told the name of the tab that is shown, such as `collect`
 * @returns {(name: string) => void} shows the tab of that name
 */
export function makeTabs(onChange) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const names = tabs.map((tab) => tab.id.replace("tab-", ""));

  function show(name) {
    tabs.forEach((tab, i) => {
      const isShown = names[i] === name;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !isShown;
    });
    history.replaceState(null, "", `#${name}`);
    onChange(name);
  }

  tabs.forEach((tab, i) => {
    tab.onclick = () => show(names[i]);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = (i + step + tabs.length) % tabs.length;
      tabs[next].focus();
      show(names[next]);
    };
  });
  const wanted = location.hash.slice(1);
  show(names.includes(wanted) ? wanted : names[0]);
  return show;
}
