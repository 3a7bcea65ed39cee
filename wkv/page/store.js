/**
 * What the browser keeps: every conversation under a key of its own, drafts and settings.
 *
 * Writing gives false where the browser refuses (storage full or forbidden); the page then goes on
 * from memory and says so. Reading passes over what is damaged, and leaves it where it lies.
 */

import { readConversation } from "./exchange.js";

const CONVERSATION = "wkv.conversation.";
const CURRENT = "wkv.current";
const DRAFT = "wkv.draft.";
const SETTINGS = "wkv.settings";
const STATE_NAMES = "wkv.states";

export function saveConversation(conversation) {
  return write(CONVERSATION + conversation.id, JSON.stringify(conversation));
}

export function removeConversation(id) {
  remove(CONVERSATION + id);
  remove(DRAFT + id);
}

/** All conversations that can be read, in no order. */
export function loadConversations() {
  return keys(CONVERSATION).map((key) => loadConversation(key.slice(CONVERSATION.length)))
    .filter((conversation) => conversation !== null);
}

export function loadConversation(id) {
  try {
    return readConversation(JSON.parse(read(CONVERSATION + id)));
  } catch {
    return null;
  }
}

export const loadDraft = (id) => read(DRAFT + id) ?? "";
export const saveDraft = (id, text) => (text ? write(DRAFT + id, text) : remove(DRAFT + id));

/** Which conversation is in view in this tab, to be found again after a reload. */
export function loadCurrent() {
  try {
    return sessionStorage.getItem(CURRENT);
  } catch {
    return null;
  }
}

export function saveCurrent(id) {
  try {
    sessionStorage.setItem(CURRENT, id);
  } catch {
    // Then a reload begins with a new chat.
  }
}

export const loadSettings = () => readJson(SETTINGS);
export const saveSettings = (settings) => write(SETTINGS, JSON.stringify(settings));

/** The names the user's states have here, by id. */
export const loadStateNames = () => readJson(STATE_NAMES);
export const saveStateNames = (names) => write(STATE_NAMES, JSON.stringify(names));

/** Calls back with a conversation's id when another tab writes or removes it. */
export function onOtherTab(callback) {
  addEventListener("storage", (event) => {
    if (event.key?.startsWith(CONVERSATION)) callback(event.key.slice(CONVERSATION.length));
  });
}

function readJson(key) {
  try {
    return { ...JSON.parse(read(key)) };
  } catch {
    return {};
  }
}

function keys(prefix) {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(prefix));
  } catch {
    return [];
  }
}

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, value);
    return true;
  } catch {
    return false;
  }
}

function remove(key) {
  try {
    localStorage.removeItem(key);
    return true;
  } catch {
    return false;
  }
}
